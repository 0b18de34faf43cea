// Live pages: asks for the page with ?live=1 and swaps the regions that the server sends anew. Never moves focus or
// scroll; pauses when told to or when nobody looks. Without it, pages have a plain Refresh link.
"use strict";
(() => {
  const regions = document.querySelectorAll("[data-live]");
  const message = document.getElementById("message");
  // Readers of screens are told of a status that comes after the page has loaded, not of one that came with it.
  const told = message?.textContent.trim();
  if (told) setTimeout(() => { document.getElementById("announcer").textContent = told; }, 150);
  if (!regions.length || !window.EventSource) return;

  const button = document.getElementById("live-pause");
  const state = document.getElementById("live-state");
  const waiting = new Map(); // regions in which somebody is working, and what they will show afterwards
  let source = null, paused = false, again = 0;

  const say = (text) => { state.textContent = text; };

  const swap = (region, html) => {
    const active = region.contains(document.activeElement) ? document.activeElement : null;
    const picked = getSelection();
    const held = (active && active !== region && !active.matches("summary"))
      || (picked && !picked.isCollapsed && region.contains(picked.anchorNode));
    if (held) { waiting.set(region, html); return; }
    waiting.delete(region);
    const details = [...region.querySelectorAll("details")];
    const focused = details.findIndex((item) => item.contains(active));
    region.innerHTML = html;
    region.querySelectorAll("details").forEach((item, place) => {
      if (details[place]) item.open = details[place].open;
      if (active && place === focused) item.querySelector("summary")?.focus({ preventScroll: true });
    });
    region.dispatchEvent(new CustomEvent("live:swapped", { bubbles: true }));
  };

  const flush = () => setTimeout(() => { for (const [region, html] of [...waiting]) swap(region, html); }, 0);
  document.addEventListener("focusout", flush);
  document.addEventListener("selectionchange", () => { if (getSelection()?.isCollapsed) flush(); });

  const close = () => { clearTimeout(again); source?.close(); source = null; };

  const open = () => {
    close();
    if (paused || document.hidden) return;
    const url = new URL(location.href);
    url.searchParams.set("live", "1");
    url.hash = "";
    source = new EventSource(url);
    source.onopen = () => say("Updating by itself");
    regions.forEach((region) => source.addEventListener(region.id, (sent) => {
      swap(region, sent.data);
      const held = waiting.size ? "; what you are in waits until you leave it" : "";
      say(`Updating by itself, last at ${new Date().toISOString().slice(11, 19)} UTC${held}`);
    }));
    source.addEventListener("trouble", (sent) => say(sent.data));
    source.addEventListener("over", () => { close(); say("You are signed out."); });
    source.onerror = () => {
      if (source?.readyState === EventSource.CLOSED) again = setTimeout(open, 15000);
      say("Not updating; trying again");
    };
  };

  button.hidden = false;
  button.addEventListener("click", () => {
    paused = !paused;
    button.textContent = paused ? "Resume updates" : "Pause updates";
    if (paused) { close(); say("Paused"); } else { say("Updating by itself"); open(); }
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) close(); else open(); });
  addEventListener("pagehide", close);
  open();
})();
