"use strict";
(() => {
  const figures = JSON.parse(document.getElementById("figures").textContent);
  const PRINTED = 680;
  let printing = false;

  if (!document.createElement("canvas").getContext("webgl"))
    for (const [id, figure] of Object.entries(figures))
      if (figure.data.some((trace) => trace.type === "parcoords")) {
        const place = document.getElementById(id);
        place.textContent = "This browser has no WebGL, which these lines need; the table has the same numbers.";
        place.style.height = "auto";
        delete figures[id];
      }

  // a colour is the name of a variable of the style sheet; what it stands for depends on light, dark or print
  const themed = (value, style, key) => {
    if (Array.isArray(value)) return value.map((inner) => themed(inner, style, key));
    if (value !== null && typeof value === "object")
      return Object.fromEntries(Object.entries(value).map(([name, inner]) => [name, themed(inner, style, name)]));
    return typeof value === "string" && value.startsWith("--") && /color/.test(key)
      ? style.getPropertyValue(value).trim()
      : value;
  };

  const layoutOf = (figure, style) => {
    const colour = (name) => style.getPropertyValue(name).trim();
    const axis = { gridcolor: colour("--grid"), linecolor: colour("--rule"), zerolinecolor: colour("--grid") };
    const layout = themed(figure.layout, style, "");
    for (const name of ["xaxis", "yaxis"]) if (layout[name]) layout[name] = { ...axis, ...layout[name] };
    return {
      ...layout,
      height: figure.height,
      ...(printing ? { width: PRINTED, autosize: false } : { autosize: true }),
      paper_bgcolor: colour("--surface"),
      plot_bgcolor: colour("--surface"),
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: colour("--text") },
      hoverlabel: { bgcolor: colour("--surface"), bordercolor: colour("--rule"), font: { color: colour("--text") } },
    };
  };

  const draw = (id) => {
    const figure = figures[id];
    const style = getComputedStyle(document.documentElement);
    const config = { responsive: true, displayModeBar: false };
    return Plotly.react(id, themed(figure.data, style, ""), layoutOf(figure, style), config);
  };
  const drawAll = () => Promise.all(Object.keys(figures).map(draw));

  const sortKey = (row, column) => {
    const raw = row.cells[column].dataset.value;
    return raw === undefined ? row.cells[column].textContent : raw === "" ? null : Number(raw);
  };
  const compare = (first, second) =>
    typeof first === "number" && typeof second === "number" ? first - second : String(first).localeCompare(String(second));

  const sort = (table, column, direction) => {
    const sign = direction === "descending" ? -1 : 1;
    const body = table.tBodies[0];
    const keyed = [...body.rows].map((row) => [sortKey(row, column), row]);
    keyed.sort(([first], [second]) => {
      if (first === null || second === null) return (first === null) - (second === null); // nothing is always last
      return sign * compare(first, second);
    });
    body.append(...keyed.map(([, row]) => row));
    [...table.tHead.rows[0].cells].forEach((cell, place) =>
      cell.setAttribute("aria-sort", place === column ? direction : "none"));
  };

  const table = document.getElementById("trials");
  let sorted = null;
  if (table)
    [...table.tHead.rows[0].cells].forEach((cell, column) =>
      cell.querySelector("button").addEventListener("click", () => {
        sorted = [column, cell.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending"];
        sort(table, ...sorted);
      }));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  addEventListener("beforeprint", () => { printing = true; drawAll(); });
  addEventListener("afterprint", () => { printing = false; drawAll(); });

  const kept = `raycompress:${location.pathname}`;
  const box = document.querySelector(".scroll");
  const restore = () => {
    try {
      const state = JSON.parse(sessionStorage.getItem(kept));
      sessionStorage.removeItem(kept);
      if (!state) return;
      if (state.sorted && table) sort(table, ...(sorted = state.sorted));
      if (box) [box.scrollLeft, box.scrollTop] = state.box;
      scrollTo(state.x, state.y);
    } catch { /* a browser that keeps nothing shows the top */ }
  };
  const reload = () => {
    try {
      const inside = box ? [box.scrollLeft, box.scrollTop] : [0, 0];
      sessionStorage.setItem(kept, JSON.stringify({ x: scrollX, y: scrollY, box: inside, sorted }));
    } catch { /* see above */ }
    location.reload();
  };

  const seconds = Number(document.documentElement.dataset.reload);
  if (seconds) history.scrollRestoration = "manual";
  drawAll().then(() => {
    restore();
    document.documentElement.dataset.drawn = Object.keys(figures).length;
    if (seconds) setTimeout(reload, 1000 * seconds);
  });
})();
