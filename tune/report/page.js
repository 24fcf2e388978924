"use strict";
// Draws the figures, whose data stand beside them, in the colours of page.css; again where light turns dark, and for print.

const root = document.documentElement;
const problems = [];
const note = (problem) => {
  problems.push(String(problem));
  root.dataset.problems = problems.join("\n");
};
addEventListener("error", (event) => note(event.message));
addEventListener("unhandledrejection", (event) => note(event.reason));

// A finger scrolls the page; only a mouse zooms into a figure.
const mouse = matchMedia("(hover: hover) and (pointer: fine)").matches;
const config = { responsive: true, displaylogo: false, displayModeBar: mouse ? "hover" : false, showTips: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d", "pan2d"] };

function template() {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const axis = { gridcolor: colour("line"), linecolor: colour("line"), zeroline: false, automargin: true,
    tickcolor: colour("line"), title: { standoff: 10, font: { size: 13 } } };
  return { layout: {
    paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", xaxis: axis, yaxis: axis,
    font: { family: style.fontFamily, size: 12, color: colour("soft") },
    legend: { orientation: "h", x: 0, xanchor: "left", y: 1, yanchor: "bottom", bgcolor: "rgba(0,0,0,0)",
      font: { color: colour("ink") } },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), align: "left",
      font: { color: colour("ink"), family: style.fontFamily } },
    modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("soft"), activecolor: colour("ink") },
    margin: { l: 56, r: 16, t: 24, b: 48 }, hovermode: "closest", dragmode: mouse ? "zoom" : false,
  } };
}

function draw() {
  const boxes = [...document.querySelectorAll(".plot")];
  root.dataset.figures = boxes.length;
  const theme = template();
  const blue = getComputedStyle(root).getPropertyValue("--blue").trim();
  return Promise.all(boxes.map((box) => {
    // The one colour of the palette that is too dark on black.
    const text = box.closest("figure").querySelector("script").textContent.replaceAll("#0072B2", blue);
    const { data, layout } = JSON.parse(text);
    return Plotly.react(box, data, { ...layout, template: theme, autosize: true }, config);
  })).then(() => { root.dataset.drawn = document.querySelectorAll(".plot .main-svg:first-child").length; }, note);
}

draw();
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
addEventListener("beforeprint", () => { root.classList.add("print"); draw(); });
addEventListener("afterprint", () => { root.classList.remove("print"); draw(); });
