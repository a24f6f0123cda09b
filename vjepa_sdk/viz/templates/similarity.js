// What is like a point of a video: a press moves the point. All text goes in by textContent.
"use strict";
for (const root of document.querySelectorAll("div.similarity")) {
  const data = JSON.parse(root.previousElementSibling.textContent);
  const find = (name) => root.querySelector(".sim-" + name);
  const [count, rows, columns, width] = data.grid, cells = rows * columns;
  const [top, left, bottom, right] = data.crop;
  const numbers = halves(data.numbers), values = new Float32Array(count * cells);
  const colours = data.palette.match(/../g).map((digits) => parseInt(digits, 16));
  const frames = data.frames.map((source, number) => {
    const image = new Image();
    image.addEventListener("load", () => { if (number === moment) draw(); });
    image.src = source;
    return image;
  });
  let [moment, x, y] = data.point, origin = moment, low = 0, high = 1, timer = 0;
  const panes = [find("frame"), find("heat")];
  for (const canvas of panes) [canvas.width, canvas.height] = data.size;
  const heat = document.createElement("canvas"), fine = Math.max(4, Math.ceil(224 / Math.max(rows, columns)));
  [heat.width, heat.height] = [columns * fine, rows * fine];
  const across = weights(columns), down = weights(rows), between = new Float32Array(rows * heat.width);

  // which four cells make a pixel, and how much of each: bicubic, as in the films
  function weights(cells) {
    const cubic = (t) => {
      t = Math.abs(t);
      return t <= 1 ? (1.25 * t - 2.25) * t * t + 1 : t < 2 ? ((-0.75 * t + 3.75) * t - 6) * t + 3 : 0;
    };
    return Array.from({ length: cells * fine }, (_, pixel) => {
      const place = (pixel + 0.5) / fine - 0.5, first = Math.floor(place) - 1;
      return [0, 1, 2, 3].map((k) => [Math.max(0, Math.min(cells - 1, first + k)), cubic(place - first - k)]);
    });
  }

  // numbers of 16 bits as they lie in the data, lowest byte first
  function halves(text) {
    const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    const found = new Float32Array(bytes.length / 2);
    for (let i = 0; i < found.length; i++) {
      const bits = bytes[2 * i] | (bytes[2 * i + 1] << 8), exponent = (bits >> 10) & 31, rest = bits & 1023;
      const size = exponent ? (1 + rest / 1024) * 2 ** (exponent - 15) : rest * 2 ** -24;
      found[i] = bits & 32768 ? -size : size;
    }
    return found;
  }

  const inside = (value, from, to, parts) => Math.max(0, Math.min(parts - 1, Math.floor(((value - from) / (to - from)) * parts)));
  const row = () => inside(y, top, bottom, rows);
  const column = () => inside(x, left, right, columns);

  function compare() {
    const first = ((origin * rows + row()) * columns + column()) * width;
    for (let i = 0; i < values.length; i++) {
      let sum = 0;
      for (let k = 0; k < width; k++) sum += numbers[first + k] * numbers[i * width + k];
      values[i] = sum;
    }
    const ordered = values.slice().sort();
    [low, high] = data.quantiles.map((share) => ordered[Math.floor(share * (ordered.length - 1))]);
    find("low").textContent = low.toFixed(2);
    find("high").textContent = high.toFixed(2);
    find("status").firstElementChild.textContent = `${data.seconds[origin].toFixed(2)} s, x ${x.toFixed(2)}, y ${y.toFixed(2)}`;
    find("status").lastElementChild.textContent = `--at ${data.seconds[origin].toFixed(2)},${x.toFixed(2)},${y.toFixed(2)}`;
  }

  // values are made larger before they are coloured, so that no colour appears that stands for no value
  function paint() {
    const { width: wide, height: tall } = heat, pixels = heat.getContext("2d").createImageData(wide, tall);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < wide; j++) {
        let sum = 0;
        for (const [cell, share] of across[j]) sum += share * values[moment * cells + i * columns + cell];
        between[i * wide + j] = sum;
      }
    }
    for (let i = 0; i < tall; i++) {
      for (let j = 0; j < wide; j++) {
        let sum = 0;
        for (const [cell, share] of down[i]) sum += share * between[cell * wide + j];
        const part = Math.max(0, Math.min(1, (sum - low) / Math.max(high - low, 1e-12)));
        const place = 3 * Math.round(255 * part), pixel = 4 * (i * wide + j);
        for (let k = 0; k < 3; k++) pixels.data[pixel + k] = colours[place + k];
        pixels.data[pixel + 3] = 255;
      }
    }
    heat.getContext("2d").putImageData(pixels, 0, 0);
  }

  function draw() {
    paint();
    const [wide, tall] = data.size;
    panes.forEach((canvas, number) => {
      const context = canvas.getContext("2d");
      context.globalAlpha = 1;
      if (frames[moment].naturalWidth) context.drawImage(frames[moment], 0, 0, wide, tall);
      if (number) {
        context.globalAlpha = Number(find("alpha").value);
        context.drawImage(heat, left * wide, top * tall, (right - left) * wide, (bottom - top) * tall);
        context.globalAlpha = 1;
      } else {
        context.lineWidth = 1;
        context.strokeStyle = "#ffffff";
        context.strokeRect(left * wide + 0.5, top * tall + 0.5, (right - left) * wide - 1, (bottom - top) * tall - 1);
      }
      mark(context, wide, tall);
    });
    find("slider").value = moment;
    find("slider").setAttribute("aria-valuetext", `${data.seconds[moment].toFixed(2)} seconds`);
    find("moment").textContent = `${data.seconds[moment].toFixed(2)} s`;
    find("back").disabled = moment === origin;
  }

  // a square around the token: bold while it lasts, thin elsewhere
  function mark(context, wide, tall) {
    const there = moment === origin, cellWide = ((right - left) * wide) / columns, cellTall = ((bottom - top) * tall) / rows;
    for (const [line, colour] of there ? [[6, "#000000"], [2.5, "#ffffff"]] : [[1.2, "#ffffff"]]) {
      context.lineWidth = line;
      context.strokeStyle = colour;
      context.strokeRect(left * wide + column() * cellWide, top * tall + row() * cellTall, cellWide, cellTall);
    }
  }

  function choose(newX, newY) {
    x = Math.max(left, Math.min(right, newX));
    y = Math.max(top, Math.min(bottom, newY));
    origin = moment;
    compare();
    draw();
  }

  function show(number) {
    moment = Math.max(0, Math.min(count - 1, number));
    draw();
  }

  function play(wanted) {
    clearInterval(timer);
    timer = 0;
    find("play").setAttribute("aria-pressed", String(wanted));
    find("play").textContent = wanted ? "Pause" : "Play";
    const pause = count > 1 ? (1000 * (data.seconds[count - 1] - data.seconds[0])) / (count - 1) : 200;
    if (wanted) timer = setInterval(() => show((moment + 1) % count), Math.max(30, pause));
  }

  for (const canvas of panes) {
    canvas.addEventListener("click", (event) => {
      const box = canvas.getBoundingClientRect();
      choose((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    });
  }
  panes[0].addEventListener("keydown", (event) => {
    const moves = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (!moves[event.key]) return;
    const [dx, dy] = moves[event.key];
    choose(
      left + ((inside(x, left, right, columns) + dx + 0.5) / columns) * (right - left),
      top + ((inside(y, top, bottom, rows) + dy + 0.5) / rows) * (bottom - top),
    );
    event.preventDefault();
  });
  find("slider").max = count - 1;
  find("slider").addEventListener("input", (event) => { play(false); show(Number(event.target.value)); });
  find("play").addEventListener("click", () => play(!timer));
  find("play").hidden = count < 2;
  find("back").addEventListener("click", () => { play(false); show(origin); });
  find("alpha").addEventListener("input", draw);
  const ramp = find("ramp").getContext("2d"), line = ramp.createImageData(256, 1);
  for (let i = 0; i < 256; i++) line.data.set([colours[3 * i], colours[3 * i + 1], colours[3 * i + 2], 255], 4 * i);
  ramp.putImageData(line, 0, 0);
  root.hidden = false;
  root.nextElementSibling.hidden = true;
  compare();
  draw();
}
