"use strict";
// Draws what the page's data holds. Text from the data only ever becomes textContent, never HTML.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);
  // Okabe and Ito's colours, which the colour-blind can tell apart, the last by the page's ground; and dashes, as
  // colours are lost in print. Their numbers have no common divisor.
  const PALETTE = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];
  const MANY = 6; // trackers, from which on legends stand apart and the player starts with the best of them
  const DASHES = ["solid", "dash", "dot", "dashdot", "longdash"];
  const HATCHES = ["", "/", ".", "x", "\\"];
  // Epochs of one training run through a scale from early to late (plasma's first part, so that it shows on white).
  const SCALE = [[13, 8, 135], [126, 3, 168], [204, 71, 120], [248, 149, 64]];
  const TRUTH = "#39ff14";
  const METRICS = ["success", "precision", "norm_precision"];

  function onScale(share) {
    const place = Math.min(share * (SCALE.length - 1), SCALE.length - 1.001);
    const [low, part] = [Math.floor(place), place % 1];
    return `rgb(${SCALE[low].map((from, c) => Math.round(from + part * (SCALE[low + 1][c] - from))).join(",")})`;
  }

  const families = new Map(); // of trackers that are epochs of one training, in the order of epochs
  for (const tracker of data.trackers.filter((t) => t.epoch !== null)) {
    families.set(tracker.family, [...(families.get(tracker.family) || []), tracker]);
  }
  for (const [family, members] of families) {
    if (members.length < 2) families.delete(family);
    else members.sort((a, b) => a.epoch - b.epoch);
  }

  const darkness = matchMedia("(prefers-color-scheme: dark)");
  let printing = false;
  const isDark = () => darkness.matches && !printing; // paper is white

  function color(i) {
    const members = families.get(data.trackers[i].family);
    if (members && families.size === 1 && members.length > 2) {
      const share = members.indexOf(data.trackers[i]) / (members.length - 1);
      return onScale(isDark() ? 0.25 + 0.75 * share : share);
    }
    return [...PALETTE, isDark() ? "#ffffff" : "#000000"][i % (PALETTE.length + 1)];
  }
  const dash = (i) => DASHES[i % DASHES.length];
  // plotly reads some HTML tags in labels; a name is shown as it is.
  const plain = (text) => text.replace(/&/g, "&amp;").replace(/</g, "&lt;").replace(/>/g, "&gt;");
  // A named list: no button of a future plotly that would send data somewhere can join it.
  const CONFIG = {
    displaylogo: false, responsive: true,
    modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
  };

  // In plots, an epoch's name is short where that is no other tracker's.
  const shortName = (tracker) => (
    data.trackers.filter((t) => t.short === tracker.short).length > 1 ? tracker.name : tracker.short
  );
  const label = (tracker) => plain(shortName(tracker));
  const narrow = matchMedia("(max-width: 640px)").matches;
  const crowded = narrow || data.trackers.length > MANY || data.trackers.some((t) => shortName(t).length > 24);

  for (const element of document.querySelectorAll(".scripted")) element.hidden = false;

  // ---- Tables

  function cellValue(row, column) {
    const cell = row.cells[column];
    if (cell.dataset.value !== undefined) return Number(cell.dataset.value);
    const text = cell.textContent.trim();
    const number = Number.parseFloat(text);
    return /^[+-]?[\d.]/.test(text) && !Number.isNaN(number) ? number : text;
  }

  function compare(a, b) {
    if (typeof a === "number" && typeof b === "number") return a - b;
    return String(a).localeCompare(String(b));
  }

  function sortTable(table, column) {
    const head = table.tHead.rows[0].cells;
    const ascending = head[column].getAttribute("aria-sort") === "descending";
    for (const cell of head) cell.removeAttribute("aria-sort");
    head[column].setAttribute("aria-sort", ascending ? "ascending" : "descending");
    const rows = [...table.tBodies[0].rows];
    const isScore = (row) => typeof cellValue(row, column) === "number"; // a dash comes last in either direction
    rows.sort((a, b) => isScore(b) - isScore(a) || compare(cellValue(a, column), cellValue(b, column)) * (ascending ? 1 : -1));
    table.tBodies[0].append(...rows);
  }

  // The strips' column comes first, so that the numbers of the columns below count it.
  const videos = new Map(data.videos.map((video) => [video.name, video]));
  const videoTable = byId("video-table");
  videoTable.tHead.rows[0].cells[0].after(Object.assign(document.createElement("th"), { textContent: "Overlap" }));

  for (const table of document.querySelectorAll("table.sortable")) {
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.querySelector("button")?.addEventListener("click", () => sortTable(table, column));
    });
  }

  const keys = []; // what shows a tracker's colour: [element, place of the tracker]
  function keyOf(i, className) {
    const key = Object.assign(document.createElement("span"), { className });
    key.style.background = color(i);
    keys.push([key, i]);
    return key;
  }
  // A line as in the curves, as colours come again after the seventh tracker.
  const STROKES = { solid: "", dash: "7 4", dot: "2 3", dashdot: "7 3 2 3", longdash: "11 4" };
  function lineOf(i) {
    const [svg, line] = ["svg", "line"].map((name) => document.createElementNS("http://www.w3.org/2000/svg", name));
    for (const [name, value] of [["x1", 0], ["x2", 30], ["y1", 5], ["y2", 5], ["stroke-dasharray", STROKES[dash(i)]]]) line.setAttribute(name, value);
    svg.setAttribute("class", "line");
    line.style.stroke = color(i);
    svg.append(line);
    keys.push([line, i]);
    return svg;
  }
  [...byId("summary-table").tBodies[0].rows].forEach((row, i) => row.cells[0].prepend(keyOf(i, "key")));

  // ---- Difference of two trackers

  // Returns how far tracker a leads over tracker b, given by their places, with the interval; undefined if unknown.
  function lead(a, b, metric) {
    const [first, second] = [data.trackers[Math.min(a, b)].id, data.trackers[Math.max(a, b)].id];
    const d = data.differences.find((one) => one.metric === metric && one.first === first && one.second === second);
    if (!d) return undefined;
    const few = d.low === null; // too few sequences for an interval
    return a < b ? { value: d.value, low: d.low, high: d.high, few } : { value: -d.value, low: -d.high, high: -d.low, few };
  }

  function showDifference() {
    const [a, b] = [byId("first").selectedIndex, byId("second").selectedIndex];
    const parts = ["success", "precision"].filter((metric) => lead(a, b, metric)).map((metric) => {
      const { value, low, high, few } = lead(a, b, metric);
      const clear = low > 0 || high < 0 ? "" : ", no clear difference";
      const signed = (x) => (x < 0 ? "−" : "+") + Math.abs(x).toFixed(3);
      if (few) return `${metric} ${signed(value)} (too few sequences for an interval)`;
      return `${metric} ${signed(value)} (95% interval ${signed(low)} to ${signed(high)}${clear})`;
    });
    byId("difference").textContent = a === b ? "the same tracker" : parts.join("; ") || "no sequence in common";
  }

  if (data.trackers.length > 1) {
    for (const [id, chosen] of [["first", 0], ["second", 1]]) {
      for (const tracker of data.trackers) byId(id).append(new Option(tracker.name));
      byId(id).selectedIndex = chosen;
      byId(id).addEventListener("change", showDifference);
    }
    showDifference();
  } else {
    byId("compare").hidden = true;
  }

  // ---- Plots

  function layout(title, x, y, width) {
    const ink = isDark() ? "#e4e7ee" : "#1d2433";
    const axis = { gridcolor: isDark() ? "#3a4253" : "#e3e7ee", zerolinecolor: isDark() ? "#3a4253" : "#c9d0db" };
    return {
      title: { text: title, font: { size: narrow ? 14 : 17 } }, margin: { l: 55, r: 15, t: 45, b: 50 }, hovermode: "closest",
      xaxis: { title: { text: x }, ...axis }, yaxis: { title: { text: y }, range: [0, 1], ...axis }, font: { color: ink },
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      modebar: { bgcolor: "rgba(0,0,0,0)", color: isDark() ? "#7d879b" : "#b4bbc8", activecolor: ink },
      legend: { bgcolor: isDark() ? "rgba(22,26,34,.7)" : "rgba(255,255,255,.7)" },
      dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom", // a finger scrolls the page
      ...(printing ? { width } : { autosize: true }),
    };
  }

  // The scores and curves of tracker i on the sequences that are chosen: all, or those with an attribute.
  function chosen(i) {
    const place = byId("attribute").selectedIndex;
    return place < 1 ? data.trackers[i] : data.attributes.parts[i][place - 1];
  }
  const hidden = new Set(); // trackers whose curves are switched off

  function plotCurves(metric, title, x, y, legend) {
    const traces = data.trackers.flatMap((tracker, i) => (chosen(i) ? [{
      x: data.thresholds[metric], y: chosen(i).curves[metric], mode: "lines", legendrank: Math.round(1000 - 1000 * chosen(i)[metric]),
      name: `${chosen(i)[metric].toFixed(3)} ${label(tracker)}`, visible: !hidden.has(i),
      line: { color: color(i), dash: dash(i), width: i ? 1.8 : 3 },
    }] : []));
    const place = layout(byId("attribute").selectedIndex < 1 ? title : `${title}: ${plain(byId("attribute").value)}`, x, y, 350);
    place.showlegend = !crowded;
    Object.assign(place.legend, legend);
    Plotly.react(`plot-${metric}`, traces, place, CONFIG);
  }

  // More or longer names than fit beside the curves stand below the three plots, once, with their scores, and switch
  // their curves on and off.
  const scoresOf = [];
  function sharedLegend() {
    byId("curve-keys").hidden = !crowded;
    byId("curve-keys").append(Object.assign(document.createElement("span"), { className: "hint", textContent: "success · precision · normalised:" }));
    data.trackers.forEach((tracker, i) => {
      const button = Object.assign(document.createElement("button"), { type: "button" });
      button.setAttribute("aria-pressed", "true");
      scoresOf.push(Object.assign(document.createElement("span"), { className: "value" }));
      button.append(lineOf(i), shortName(tracker), scoresOf[i]);
      button.addEventListener("click", () => {
        if (!hidden.delete(i)) hidden.add(i);
        button.setAttribute("aria-pressed", String(!hidden.has(i)));
        plotAllCurves();
      });
      byId("curve-keys").append(button);
    });
  }

  function plotAllCurves() {
    const above = { x: 1, xanchor: "right", y: 1 };
    const below = { x: 1, xanchor: "right", y: 0, yanchor: "bottom" };
    // Good success curves leave their lower left corner empty, poor ones their upper right.
    const free = data.trackers[0].success > 0.55 && data.trackers.at(-1).success > 0.35 ? { x: 0, xanchor: "left", y: 0, yanchor: "bottom" } : above;
    plotCurves("success", "Success", "Overlap threshold", "Success rate", free);
    plotCurves("precision", "Precision", "Location error threshold (px)", "Precision", below);
    plotCurves("norm_precision", "Normalised precision", "Location error / target size", "Precision", below);
    data.trackers.forEach((_, i) => {
      const values = METRICS.map((metric) => (chosen(i) ? chosen(i)[metric].toFixed(3) : "–"));
      scoresOf[i].textContent = values.join(" · ");
    });
  }

  function plotEpochs() {
    const [traces, shapes] = [[], []];
    const one = families.size === 1;
    [...families].forEach(([family, members], f) => {
      const own = members.map((t) => data.trackers.indexOf(t));
      const best = Math.min(...own); // trackers come ranked by success
      const leads = own.map((i) => (i === best ? { value: 0, low: 0, high: 0 } : lead(i, best, "success")));
      const intervals = leads.every((one) => one && !one.few);
      if (!intervals) byId("epoch-bars").textContent = "There are too few videos in common for intervals.";
      shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, line: { color: "#8a93a6", width: 1, dash: "dot" },
        y0: data.trackers[best].success, y1: data.trackers[best].success });
      for (const [m, metric] of ["success", "precision"].entries()) {
        const trace = {
          x: members.map((t) => t.epoch), y: members.map((t) => t[metric]), mode: "lines+markers",
          name: one ? metric : `${plain(family)} ${metric}`, hovertemplate: `epoch %{x}<br>${metric} %{y:.3f}<extra></extra>`,
          line: { color: PALETTE[(one ? m : f) % PALETTE.length], dash: m ? "dash" : "solid", width: 2 },
          marker: { size: own.map((i) => (i === best && !m ? 13 : 7)), symbol: own.map((i) => (i === best && !m ? "star" : "circle")) },
        };
        if (!m && intervals) {
          trace.error_y = {
            type: "data", symmetric: false, thickness: 1.2, width: 4,
            array: leads.map((d) => Math.max(0, d.high - d.value)), arrayminus: leads.map((d) => Math.max(0, d.value - d.low)),
          };
        }
        traces.push(trace);
      }
    });
    byId("epochs").hidden = !traces.length;
    if (!traces.length) return;
    const place = { ...layout(one ? `Scores of ${plain([...families.keys()][0])} by epoch` : "Scores by epoch", "Epoch", "Score", 710), hovermode: "x", shapes };
    Object.assign(place.xaxis, traces[0].x.length < 25 ? { dtick: 1 } : {}, { tickformat: "d" });
    delete place.yaxis.range; // the differences are small: the axis shows them
    Plotly.react("plot-epochs", traces, place, CONFIG);
  }

  function plotAttributes() {
    const { names, codes, sequences, parts } = data.attributes;
    byId("which-score").hidden = byId("plot-attributes").hidden = !names.length;
    if (!names.length) return;
    const metric = byId("attribute-score").value;
    const traces = data.trackers.map((tracker, i) => ({
      type: "bar", x: codes.map((code, n) => `${plain(code)} (${sequences[n]})`), y: parts[i].map((part) => part && part[metric]),
      name: label(tracker), customdata: names.map(plain),
      marker: { color: color(i), pattern: { shape: HATCHES[i % HATCHES.length], fillmode: "overlay", solidity: 0.2, fgcolor: "#ffffff", fgopacity: 0.8 } },
      hovertemplate: "%{customdata}<br>%{fullData.name} %{y:.3f}<extra></extra>",
    }));
    const place = { ...layout("", "", metric === "success" ? "Success" : "Precision", 710), barmode: "group" };
    place.margin.t = 20;
    if (narrow) Object.assign(place.legend, { orientation: "h", y: -0.3, yanchor: "top" });
    Plotly.react("plot-attributes", traces, place, CONFIG);
  }

  byId("which").hidden = !data.attributes.names.length;
  byId("attribute").append(new Option("all"), ...data.attributes.names.map((name, n) => new Option(`${name} (${data.attributes.sequences[n]})`)));
  byId("attribute").addEventListener("change", plotAllCurves);
  byId("attribute-score").addEventListener("change", plotAttributes);

  function plotAll() {
    plotAllCurves();
    plotEpochs();
    plotAttributes();
  }

  sharedLegend();
  plotAll();

  // ---- Frames

  function bytes(text) {
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i += 1) out[i] = raw.charCodeAt(i);
    return out;
  }

  function boxes(text) {
    const view = new DataView(bytes(text).buffer);
    const out = new Float32Array(view.byteLength / 2);
    for (let i = 0; i < out.length; i += 1) {
      const value = view.getInt16(2 * i, true);
      out[i] = value === data.units.no_box ? NaN : value * data.units.box;
    }
    return out;
  }

  const overlapOf = (step) => (step === undefined || step === data.units.no_overlap ? null : step / data.units.overlap_steps);

  function decode(video) {
    if (!video.decoded) {
      video.decoded = {
        truth: boxes(video.truth),
        runs: video.runs.map((run) => run && { boxes: boxes(run.boxes), overlaps: bytes(run.overlaps) }),
      };
    }
    return video.decoded;
  }

  // Dark blue (0) over grey-green to yellow (1), after cividis.
  const shade = (v) => [Math.round(253 * v), Math.round(34 + 200 * v), Math.round(78 + 40 * v * (1 - v) - 25 * v)];

  function drawStrip(canvas, video) {
    const { runs } = decode(video);
    const columns = 160;
    canvas.width = columns;
    canvas.height = 5 * runs.length;
    canvas.style.height = `${Math.min(48, Math.max(20, 4 * runs.length))}px`;
    canvas.setAttribute("aria-hidden", "true");
    const context = canvas.getContext("2d");
    runs.forEach((run, i) => {
      for (let x = 0; x < columns; x += 1) {
        const value = run ? overlapOf(run.overlaps[Math.floor((x / columns) * video.frames)]) : null;
        context.fillStyle = value === null ? "#bbb" : `rgb(${shade(value).join(",")})`;
        context.fillRect(x, 5 * i, 1, 4);
      }
    });
  }

  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries.filter((e) => e.isIntersecting)) {
      drawStrip(entry.target, videos.get(entry.target.dataset.name));
      seen.unobserve(entry.target);
    }
  });
  for (const row of videoTable.tBodies[0].rows) {
    const canvas = Object.assign(document.createElement("canvas"), { className: "strip" });
    canvas.dataset.name = row.querySelector("button.open").dataset.name;
    row.insertCell(1).append(canvas);
    seen.observe(canvas);
  }

  // ---- Player

  const state = { video: null, frame: 0, timer: null, shown: data.trackers.map((_, i) => data.trackers.length <= MANY || i < 3), truth: true };
  const canvas = byId("screen");
  const context = canvas.getContext("2d");
  const cache = new Map();
  const values = [];

  function legendEntry(text, mark, checked, change) {
    const entry = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", checked });
    const value = Object.assign(document.createElement("span"), { className: "value" });
    box.addEventListener("change", () => { change(box.checked); draw(); });
    entry.append(box, mark, text, value);
    byId("legend").append(entry);
    return value;
  }

  function imageOf(video, frame) {
    const url = video.images[frame];
    if (!url) return null;
    let image = cache.get(url);
    if (!image) {
      image = new Image();
      image.onload = () => { if (state.video === video && state.frame === frame) draw(); };
      image.onerror = () => { image.failed = true; if (state.video === video && state.frame === frame) draw(); };
      image.src = url;
      cache.set(url, image);
      if (cache.size > 200) cache.delete(cache.keys().next().value);
    }
    return image;
  }

  function stageSize(video, image) {
    if (video.original) return video.original;
    if (image && image.complete && image.naturalWidth) return [image.naturalWidth, image.naturalHeight];
    if (!video.extent) {
      const { truth } = decode(video);
      const extent = [64, 64];
      for (let i = 0; i < truth.length; i += 4) {
        for (const axis of [0, 1]) extent[axis] = Math.max(extent[axis], truth[i + axis] + truth[i + axis + 2] + 10);
      }
      video.extent = extent.map(Math.ceil);
    }
    return video.extent;
  }

  function drawBox(list, frame, style, width) {
    const [x, y, w, h] = list.subarray(4 * frame, 4 * frame + 4);
    if (!(w > 0 && h > 0)) return;
    context.strokeStyle = style;
    context.lineWidth = width;
    context.strokeRect(x, y, w, h);
  }

  function draw() {
    const { video, frame } = state;
    const { truth, runs } = decode(video);
    const image = imageOf(video, frame);
    const ready = image && image.complete && image.naturalWidth > 0;
    const [width, height] = stageSize(video, image);
    if (image && !ready && !image.failed) return; // the frame before stays until this one has arrived
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    context.clearRect(0, 0, width, height);
    if (ready) context.drawImage(image, 0, 0, width, height);
    const line = Math.max(1.5, width / 320);
    // The truth is broad and lies below, so that it shows where a tracker's box covers it; the best tracker is on top.
    if (state.truth) drawBox(truth, frame, TRUTH, 2 * line);
    for (let i = runs.length - 1; i >= 0; i -= 1) if (runs[i] && state.shown[i]) drawBox(runs[i].boxes, frame, color(i), line);
    runs.forEach((run, i) => {
      const value = run ? overlapOf(run.overlaps[frame]) : null;
      values[i].textContent = value === null ? "–" : value.toFixed(3);
    });
    byId("image-note").textContent = ready ? "" : image
      ? `no picture: ${video.images[frame].slice(0, 200)} was not found; the page refers to the data set where it lay, --embed puts pictures inside`
      : `no pictures, boxes alone: ${data.no_images || "this video's are not in the data set"}`;
  }

  function show(frame) {
    state.frame = Math.max(0, Math.min(state.video.frames - 1, frame));
    byId("frame").value = state.frame + 1;
    byId("position").textContent = `${state.frame + 1} / ${state.video.frames}`;
    Plotly.relayout("plot-strips", { "shapes[0].x0": state.frame + 1, "shapes[0].x1": state.frame + 1 });
    draw();
    imageOf(state.video, state.frame + 1);
  }

  function play(on) {
    clearInterval(state.timer);
    state.timer = null;
    byId("play").textContent = on ? "Pause" : "Play";
    byId("play").setAttribute("aria-pressed", String(on));
    if (!on) return;
    if (state.frame === state.video.frames - 1) show(0);
    state.timer = setInterval(() => {
      if (state.frame + 1 >= state.video.frames) play(false);
      else show(state.frame + 1);
    }, 1000 / Number(byId("speed").value));
  }

  function plotStrips(video) {
    const { runs } = decode(video);
    const frames = Array.from({ length: video.frames }, (_, i) => i + 1);
    const trace = {
      type: "heatmap", x: frames, y: data.trackers.map(label), zmin: 0, zmax: 1, colorscale: "Cividis",
      z: runs.map((run) => frames.map((_, i) => (run ? overlapOf(run.overlaps[i]) : null))),
      hovertemplate: "frame %{x}<br>%{y}<br>overlap %{z:.3f}<extra></extra>", colorbar: { thickness: 12 },
    };
    const cursor = { type: "line", yref: "paper", y0: 0, y1: 1, x0: 1, x1: 1, line: { color: "#d00", width: 2 } };
    const place = {
      ...layout("", "", "", 710),
      height: 110 + (runs.length > 8 ? 20 : 28) * runs.length, margin: { l: 10, r: 10, t: 10, b: 45 }, shapes: [cursor],
      xaxis: { title: { text: "Frame (click to go there); grey: no box" }, showgrid: false, range: [0.5, video.frames + 0.5] },
      yaxis: { autorange: "reversed", automargin: true, showgrid: false }, plot_bgcolor: "#bbb", title: {},
    };
    Plotly.react("plot-strips", [trace], place, CONFIG);
  }

  function open(name) {
    play(false);
    state.video = videos.get(name);
    byId("video-name").textContent = name;
    byId("frame").max = state.video.frames;
    for (const row of videoTable.tBodies[0].rows) {
      row.classList.toggle("current", row.querySelector("button.open").dataset.name === name);
    }
    plotStrips(state.video);
    show(0);
  }

  const truthMark = Object.assign(document.createElement("span"), { className: "swatch" });
  truthMark.style.background = TRUTH;
  legendEntry("ground truth", truthMark, true, (on) => { state.truth = on; });
  data.trackers.forEach((tracker, i) => {
    values.push(legendEntry(tracker.name, keyOf(i, "swatch"), state.shown[i], (on) => { state.shown[i] = on; }));
  });
  if (data.trackers.length > MANY) {
    const bar = Object.assign(document.createElement("div"), { className: "all" });
    for (const [text, on] of [["all", true], ["none", false]]) {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.addEventListener("click", () => {
        state.shown.fill(on);
        for (const box of [...byId("legend").querySelectorAll("input")].slice(1)) box.checked = on;
        draw();
      });
      bar.append(button);
    }
    byId("legend").prepend(bar);
  }
  byId("play").addEventListener("click", () => play(state.timer === null));
  byId("frame").addEventListener("input", (event) => { play(false); show(Number(event.target.value) - 1); });
  byId("speed").addEventListener("change", () => { if (state.timer !== null) play(true); });
  canvas.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step) { play(false); show(state.frame + step); }
    if (event.key === " ") play(state.timer === null);
    if (step || event.key === " ") event.preventDefault();
  });
  videoTable.addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (!button) return;
    open(button.dataset.name);
    byId("player").scrollIntoView({ behavior: "smooth" });
  });
  open(videoTable.tBodies[0].rows[0].querySelector("button.open").dataset.name);
  byId("plot-strips").on("plotly_click", (event) => { play(false); show(event.points[0].x - 1); });

  // ---- Dark and light, and paper, on which no plot is wider than the page

  function repaint() {
    for (const [key, i] of keys) key.style[key.tagName === "line" ? "stroke" : "background"] = color(i);
    plotAll();
    draw();
    if (!printing) {
      plotStrips(state.video);
      show(state.frame);
    }
  }

  darkness.addEventListener("change", repaint);
  addEventListener("beforeprint", () => {
    printing = true;
    for (const strip of document.querySelectorAll("canvas.strip")) drawStrip(strip, videos.get(strip.dataset.name));
    repaint();
  });
  addEventListener("afterprint", () => { printing = false; repaint(); });
})();
