// Draws the charts of the Overview with uPlot out of their data attributes, over the plain lines that the server drew.
"use strict";
(() => {
  if (!window.uPlot) return;
  const dashes = [[], [6, 3], [2, 3], [8, 3, 2, 3]];
  let plots = [];

  const colour = (element) => getComputedStyle(element).color;

  const hour = (seconds) => new Date(seconds * 1000).toISOString().slice(11, 16);

  const draw = (box) => {
    const { at, lines } = JSON.parse(box.dataset.chart);
    if (!lines.length) return;
    const swatches = box.parentElement.querySelectorAll(".swatch");
    const axis = {
      stroke: colour(box.parentElement.querySelector(".quiet")),
      grid: { stroke: getComputedStyle(box.parentElement).borderTopColor, width: 1 },
      ticks: { show: false },
      font: "12px system-ui, sans-serif",
    };
    box.replaceChildren();
    plots.push(new uPlot({
      width: box.clientWidth,
      height: box.clientHeight,
      cursor: { drag: { x: false, y: false } },
      legend: { show: false },
      scales: { y: { range: (_, low, high) => [0, Math.max(high, 1)] } },
      axes: [
        { ...axis, size: 28, values: (_, ticks) => ticks.map(hour) },
        { ...axis, size: 56, values: (_, ticks) => ticks.map((tick) => tick.toLocaleString("en")) },
      ],
      series: [{}, ...lines.map((line, place) => ({
        label: line.label, stroke: colour(swatches[place]), width: 1.5, dash: dashes[place % 4], points: { show: false },
      }))],
    }, [at, ...lines.map((line) => line.values)], box));
    box.firstElementChild.setAttribute("role", "img");
    box.firstElementChild.setAttribute("aria-label", box.dataset.title);
  };

  const drawAll = () => {
    plots.forEach((plot) => plot.destroy());
    plots = [];
    document.querySelectorAll("[data-chart]").forEach(draw);
  };

  let later = 0;
  addEventListener("resize", () => { clearTimeout(later); later = setTimeout(drawAll, 150); });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  document.addEventListener("live:swapped", (event) => { if (event.target.id === "charts") drawAll(); });
  drawAll();
})();
