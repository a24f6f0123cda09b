// The map of features: points on a canvas, a card for the one that is looked at. All text goes in by textContent.
"use strict";
for (const root of document.querySelectorAll("div.map")) {
  const data = JSON.parse(root.previousElementSibling.textContent);
  const find = (name) => root.querySelector(".map-" + name);
  const canvas = find("canvas"), context = canvas.getContext("2d");
  const count = data.x.length, hidden = new Set();
  let colouring = data.colourings[0], matches = null, current = -1;
  const images = new Map();
  for (const [row, picture] of Object.entries(data.pictures)) {
    const image = new Image();
    image.addEventListener("load", () => { if (films) draw(); });
    image.src = picture;
    images.set(Number(row), image);
  }
  let films = images.size > 0 && count <= 60;
  let view = { scale: 1, x: 0.5, y: 0.5 }, size = { width: 1, height: 1 }, drag = null;

  const isShown = (i) => !hidden.has(colouring.of[i]);
  const side = () => Math.min(size.width, size.height) * (films ? 0.84 : 0.92);
  const placeX = (i) => size.width / 2 + (data.x[i] / 10000 - view.x) * side() * view.scale;
  const placeY = (i) => size.height / 2 + (data.y[i] / 10000 - view.y) * side() * view.scale;
  const reach = () => (films && count <= 60 ? Math.max(34, Math.min(64, size.width / 12)) / 2 : radius() + 10);
  const radius = () => Math.max(2.2, Math.min(7, 90 / Math.sqrt(count))) * Math.min(2, Math.sqrt(view.scale));

  function draw() {
    const style = getComputedStyle(document.documentElement), r = radius();
    const line = style.getPropertyValue("--card"), ink = style.getPropertyValue("--ink");
    context.clearRect(0, 0, size.width, size.height);
    context.lineWidth = 1;
    context.strokeStyle = line;
    for (let i = 0; i < count; i++) {
      if (!isShown(i)) continue;
      const x = placeX(i), y = placeY(i);
      if (x < -r || y < -r || x > size.width + r || y > size.height + r) continue;
      context.globalAlpha = matches === null ? 0.9 : matches.has(i) ? 1 : 0.12;
      context.fillStyle = colouring.colours[colouring.of[i]];
      context.beginPath();
      context.arc(x, y, r, 0, 7);
      context.fill();
      if (count <= 5000) context.stroke();
    }
    context.globalAlpha = 1;
    if (films) drawFilms();
    if (current >= 0) {
      context.strokeStyle = ink;
      context.lineWidth = 2.5;
      context.beginPath();
      if (films && images.has(current)) {
        const edge = Math.max(34, Math.min(64, size.width / 12)) / 2 + 4;
        context.rect(placeX(current) - edge, placeY(current) - edge, 2 * edge, 2 * edge);
      } else {
        context.arc(placeX(current), placeY(current), r + 4, 0, 7);
      }
      context.stroke();
    }
  }

  function drawFilms() {
    const edge = Math.max(34, Math.min(64, size.width / 12)), taken = new Set();
    context.lineWidth = 6;
    for (const [i, image] of images) {
      const x = placeX(i), y = placeY(i), cell = `${Math.floor(x / edge)},${Math.floor(y / edge)}`;
      if (!isShown(i) || (matches && !matches.has(i)) || !image.naturalWidth || (count > 60 && taken.has(cell))) continue;
      taken.add(cell);
      const scale = edge / Math.max(image.naturalWidth, image.naturalHeight);
      const width = image.naturalWidth * scale, height = image.naturalHeight * scale;
      context.strokeStyle = colouring.colours[colouring.of[i]];
      context.strokeRect(x - width / 2, y - height / 2, width, height);
      context.drawImage(image, x - width / 2, y - height / 2, width, height);
    }
  }

  function resize() {
    const box = canvas.getBoundingClientRect(), ratio = window.devicePixelRatio || 1;
    size = { width: box.width, height: box.height };
    canvas.width = Math.round(box.width * ratio);
    canvas.height = Math.round(box.height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    draw();
  }

  function choose(i) {
    if (i === current) return;
    current = i;
    find("empty").hidden = i >= 0;
    find("clip").hidden = i < 0;
    if (i >= 0) {
      const image = find("image"), missing = find("missing"), picture = data.pictures[i];
      image.hidden = !picture;
      if (picture) image.src = picture;
      missing.hidden = !!picture;
      missing.textContent = picture ? "" : data.reasons[i] || "no picture of this one is kept";
      find("name").firstElementChild.textContent = data.names[i];
      const facts = data.colourings.map((each) => each.name + ": " + each.names[each.of[i]]);
      find("facts").textContent = (data.seconds[i] ? [data.seconds[i]] : []).concat(facts).join(" · ");
      const link = find("open");
      link.hidden = !data.links[i];
      if (data.links[i]) link.href = data.links[i];
    }
    draw();
  }

  function nearest(x, y, reach) {
    let best = -1, least = reach * reach;
    for (let i = 0; i < count; i++) {
      if (!isShown(i)) continue;
      const dx = placeX(i) - x, dy = placeY(i) - y, distance = dx * dx + dy * dy;
      if (distance < least) { least = distance; best = i; }
    }
    return best;
  }

  function step(dx, dy) {
    if (current < 0) return choose(nearest(size.width / 2, size.height / 2, Infinity));
    const x = placeX(current), y = placeY(current);
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (i === current || !isShown(i)) continue;
      const ax = placeX(i) - x, ay = placeY(i) - y, along = ax * dx + ay * dy, across = Math.abs(ax * dy - ay * dx);
      if (along <= 0.5 || across > 2 * along) continue;
      const cost = along + 2 * across;
      if (cost < least) { least = cost; best = i; }
    }
    if (best >= 0) choose(best);
  }

  function zoom(factor) {
    if (current >= 0 && factor > 1) view = { ...view, x: data.x[current] / 10000, y: data.y[current] / 10000 };
    view.scale = Math.max(1, Math.min(200, view.scale * factor));
    if (view.scale === 1) view = { scale: 1, x: 0.5, y: 0.5 };
    canvas.style.touchAction = view.scale > 1 ? "none" : "pan-y";
    draw();
  }

  function open() {
    if (current >= 0 && data.links[current]) find("open").click();
  }

  function say() {
    const shown = colouring.of.reduce((sum, _, i) => sum + (isShown(i) ? 1 : 0), 0);
    const found = matches === null ? "" : `, ${matches.size.toLocaleString("en")} found`;
    find("status").textContent = `${shown.toLocaleString("en")} of ${count.toLocaleString("en")} points shown${found}`;
  }

  function legend() {
    hidden.clear();
    const counts = new Array(colouring.names.length).fill(0);
    for (const number of colouring.of) counts[number]++;
    find("legend").replaceChildren(...colouring.names.map((name, number) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const swatch = document.createElement("i"), text = document.createElement("span"), total = document.createElement("small");
      swatch.style.background = colouring.colours[number];
      text.textContent = name;
      total.textContent = counts[number].toLocaleString("en");
      button.type = "button";
      button.title = name;
      button.setAttribute("aria-pressed", "true");
      button.append(swatch, text, total);
      button.addEventListener("click", () => {
        if (!hidden.delete(number)) hidden.add(number);
        button.setAttribute("aria-pressed", String(!hidden.has(number)));
        if (current >= 0 && !isShown(current)) choose(-1);
        say();
        draw();
      });
      item.append(button);
      return item;
    }));
    say();
  }

  const place = (event) => { const box = canvas.getBoundingClientRect(); return [event.clientX - box.left, event.clientY - box.top]; };
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = place(event);
    if (drag) {
      if (Math.hypot(x - drag.x, y - drag.y) > 4) drag.moved = true;
      if (drag.moved && view.scale > 1) {
        view.x = drag.view.x - (x - drag.x) / side() / view.scale;
        view.y = drag.view.y - (y - drag.y) / side() / view.scale;
        draw();
      }
      return;
    }
    const i = nearest(x, y, reach());
    canvas.style.cursor = i >= 0 && data.links[i] ? "pointer" : "crosshair";
    if (i >= 0) choose(i);
  });
  canvas.addEventListener("pointerdown", (event) => { const [x, y] = place(event); drag = { x, y, view: { ...view }, moved: false }; });
  canvas.addEventListener("pointercancel", () => { drag = null; });
  canvas.addEventListener("pointerleave", () => { drag = null; });
  canvas.addEventListener("pointerup", (event) => {
    const wasDrag = drag && drag.moved, [x, y] = place(event);
    drag = null;
    if (wasDrag) return;
    const i = nearest(x, y, event.pointerType === "touch" ? 28 : reach());
    if (i < 0) return;
    choose(i);
    if (event.pointerType !== "touch") open();  // a finger has no way to look first: it uses the link
  });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;  // the page scrolls
    event.preventDefault();
    zoom(event.deltaY < 0 ? 1.25 : 0.8);
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (moves[event.key]) step(...moves[event.key]);
    else if (event.key === "Enter") open();
    else if (event.key === "+" || event.key === "=") zoom(1.5);
    else if (event.key === "-") zoom(1 / 1.5);
    else if (event.key === "Escape") choose(-1);
    else return;
    event.preventDefault();
  });
  find("in").addEventListener("click", () => zoom(1.5));
  find("out").addEventListener("click", () => zoom(1 / 1.5));
  find("all").addEventListener("click", () => zoom(0));
  const button = find("films");
  button.hidden = images.size === 0;
  button.setAttribute("aria-pressed", String(films));
  button.addEventListener("click", () => { films = !films; button.setAttribute("aria-pressed", String(films)); draw(); });
  find("search").addEventListener("input", (event) => {
    const text = event.target.value.trim().toLowerCase();
    matches = text ? new Set(data.names.flatMap((name, i) => (name.toLowerCase().includes(text) ? [i] : []))) : null;
    say();
    draw();
  });
  find("search").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && matches && matches.size) { choose([...matches][0]); canvas.focus(); }
  });
  for (const each of data.colourings) {
    const option = document.createElement("option");
    option.textContent = each.name;
    find("colour").append(option);
  }
  find("colour").addEventListener("change", (event) => { colouring = data.colourings[event.target.selectedIndex]; legend(); draw(); });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  root.hidden = false;
  root.nextElementSibling.hidden = true;
  legend();
  new ResizeObserver(resize).observe(canvas);
  resize();
}
