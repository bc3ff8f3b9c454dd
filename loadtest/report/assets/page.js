// Draws the plots of the shown run, and switches theme and run. The page reads
// without it: all numbers stand in its tables.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme || (system.matches ? "dark" : "light")) === "dark";
  const source = document.getElementById("data");
  const data = source ? JSON.parse(source.textContent) : null;
  const drawn = new Map(); // by plot's id

  // A page of a file may have no storage.
  const storage = (use) => { try { return use(localStorage); } catch { return null; } };

  const round = (v) => {
    const a = Math.abs(v);
    if (a >= 1000) return Math.round(v).toString().replace(/\B(?=(\d{3})+$)/g, "\u202f");
    if (a >= 100 || Number.isInteger(v)) return v.toFixed(0);
    return String(Number(v.toPrecision(3)));
  };
  const formats = {
    B(v) {
      const steps = [" B", " KiB", " MiB", " GiB", " TiB"];
      let i = 0;
      while (Math.abs(v) >= 1024 && i < steps.length - 1) { v /= 1024; i++; }
      return round(v) + steps[i];
    },
    ms: (v) => Math.abs(v) >= 999.5 ? round(v / 1000) + " s" : round(v) + " ms",
  };
  const shortened = (v) => Math.abs(v) >= 1e6 ? round(v / 1e6) + " M" : Math.abs(v) >= 1e4 ? round(v / 1e3) + " k" : round(v);
  const clock = (s) => {
    const whole = Math.round(s), two = (n) => String(n).padStart(2, "0");
    const h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60;
    return h ? h + ":" + two(m) + ":" + two(whole % 60) : m + ":" + two(whole % 60);
  };

  // Bytes have ticks at powers of two, others at decimal ones.
  const byteSteps = [];
  for (let e = 0; e < 45; e++) byteSteps.push(2 ** e);
  const timeSteps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 28800, 86400];

  function draw(element) {
    const id = element.dataset.plot, plot = data.plots[id];
    if (!plot) return;
    const old = drawn.get(id);
    if (old) { old.destroy(); }
    const style = getComputedStyle(root);
    const color = (name) => style.getPropertyValue(name).trim();
    const marks = data.marks[plot.run] || [];
    const font = "12px system-ui, sans-serif";
    const say = formats[plot.unit] || round;
    const axisSay = formats[plot.unit] || shortened;
    const axis = { stroke: color("--soft"), font, grid: { stroke: color("--grid"), width: 1 }, ticks: { stroke: color("--grid"), width: 1, size: 4 } };

    // Many faults would hide what they did: then they are ticks at the top,
    // until one zooms in.
    const crowded = (u) => {
      const { min, max } = u.scales.x;
      const seen = marks.filter((m) => m.at + m.for >= min && m.at <= max).length;
      return seen * 16 > u.bbox.width / (devicePixelRatio || 1);
    };
    const bands = (u) => {
      const { ctx, bbox } = u, scale = devicePixelRatio || 1;
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      const many = crowded(u);
      for (const mark of marks) {
        const x = u.valToPos(mark.at, "x", true), end = u.valToPos(mark.at + mark.for, "x", true);
        if (many) {
          ctx.fillStyle = color("--faultline");
          ctx.fillRect(x, bbox.top, scale, 7 * scale);
          continue;
        }
        ctx.fillStyle = color("--fault");
        ctx.fillRect(x, bbox.top, Math.max(end - x, 2 * scale), bbox.height);
        ctx.fillStyle = color("--faultline");
        ctx.fillRect(x, bbox.top, scale, bbox.height);
      }
      ctx.restore();
    };
    // Names stand above the grid and below the lines.
    const names = (u) => {
      if (crowded(u)) return;
      const { ctx, bbox } = u, scale = devicePixelRatio || 1;
      ctx.save();
      ctx.font = 11 * scale + "px system-ui, sans-serif";
      ctx.textAlign = "left";
      ctx.textBaseline = "top";
      let free = -Infinity; // no name is written over another
      for (const mark of marks) {
        const x = u.valToPos(mark.at, "x", true);
        if (x < bbox.left) continue;
        const width = ctx.measureText(mark.name).width;
        if (x + 4 * scale > free && x + width + 8 * scale < bbox.left + bbox.width) {
          ctx.fillStyle = color("--card");
          ctx.fillRect(x + 2 * scale, bbox.top, width + 4 * scale, 13 * scale);
          ctx.fillStyle = color("--faultline");
          ctx.fillText(mark.name, x + 4 * scale, bbox.top + scale);
          free = x + width + 10 * scale;
        }
      }
      ctx.restore();
    };

    // A process has one colour in all plots of its run.
    const processes = data.plots["run" + plot.run + "-memory"]?.names || [];
    const place = (name, i) => processes.includes(name) ? processes.indexOf(name) : i;
    const series = plot.names.map((name, i) => ({
      label: name,
      stroke: color("--s" + (place(name, i) % 8 + 1)),
      width: plot.lines[0].length > 600 ? 1 : 1.5,
      dash: [undefined, [6, 3], [2, 2]][Math.min(2, Math.floor(place(name, i) / 8))],
      points: { show: plot.lines[0].length < 3 },
      spanGaps: false,
      value: (u, v) => v == null ? "–" : say(v),
    }));
    const range = plot.log ? undefined : (u, min, max) => {
      if (min == null) return [0, 1];
      const top = Math.max(max, 0) * 1.18 || 1; // room for the names of faults
      return [Math.min(min, 0), top];
    };
    drawn.set(id, new uPlot({
      width: Math.max(element.clientWidth, 240),
      height: 240,
      scales: { x: { time: false }, y: plot.log ? { distr: 3 } : { range } },
      axes: [
        { ...axis, incrs: timeSteps, values: (u, at) => at.map(clock), space: 60 },
        { ...axis, size: 64, incrs: plot.unit === "B" ? byteSteps : undefined, values: (u, at) => at.map((v) => v == null ? "" : axisSay(v)) },
      ],
      series: [{ label: "at", value: (u, v) => v == null ? "–" : clock(v) }, ...series],
      cursor: { sync: { key: "run" + plot.run }, points: { size: 6 }, drag: { x: true, y: false } },
      legend: { markers: { width: 2 } },
      hooks: { drawClear: [bands], drawAxes: [names] },
    }, plot.lines, element));
  }

  const shown = () => [...document.querySelectorAll(".run:not([hidden]) .plot")];
  const drawAll = () => { if (data) shown().forEach(draw); };

  const button = document.getElementById("theme");
  const label = () => { button.textContent = isDark() ? "Light" : "Dark"; button.setAttribute("aria-label", "Show the page " + (isDark() ? "light" : "dark")); };
  root.dataset.theme = storage((s) => s.getItem("moorage-theme")) || "";
  if (!["light", "dark"].includes(root.dataset.theme)) delete root.dataset.theme;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    storage((s) => s.setItem("moorage-theme", root.dataset.theme));
    label();
    drawAll();
  });
  system.addEventListener("change", () => { label(); drawAll(); });
  label();

  const pick = document.getElementById("run");
  const choose = () => {
    for (const run of document.querySelectorAll(".run")) run.hidden = run.id !== pick.value;
    drawAll();
  };
  if (pick) {
    document.getElementById("pick").hidden = false;
    pick.addEventListener("change", choose);
    choose();
  } else {
    drawAll();
  }

  let width = innerWidth, later;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    clearTimeout(later);
    later = setTimeout(() => {
      for (const element of shown()) drawn.get(element.dataset.plot)?.setSize({ width: Math.max(element.clientWidth, 240), height: 240 });
    }, 100);
  });
})();
