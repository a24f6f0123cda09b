// Surprise over time: a line in the curve follows the film, and the film the pointer. All text goes in by textContent.
"use strict";
for (const root of document.querySelectorAll("div.surprise")) {
  const data = JSON.parse(root.previousElementSibling.textContent);
  const chart = root.nextElementSibling.querySelector(".chart"), film = document.querySelector("section.film video");
  const [left, right, top, bottom] = data.box, { frames, edges, values, fps } = data;
  const first = edges[0], last = edges[edges.length - 1], status = root.querySelector(".sur-status");
  const line = document.createElement("div");
  let second = first, isPointed = false;

  // how many of the ascending numbers are at most this one, and at least 1
  const reached = (numbers, value) => Math.max(1, numbers.filter((each) => each <= value + 1e-6).length);
  const moment = () => Math.min(values.length, reached(edges, second)) - 1;
  const filmSecond = () => frames[Math.min(frames.length - 1, Math.floor(film.currentTime * fps + 0.01))];

  function show(wanted) {
    second = Math.max(first, Math.min(last, wanted));
    const value = values[moment()], said = value === null ? "not predicted" : `${value.toFixed(2)} ${data.unit}`;
    line.style.left = `${100 * (left + ((second - first) / (last - first)) * (right - left))}%`;
    line.setAttribute("aria-valuenow", second.toFixed(2));
    line.setAttribute("aria-valuetext", `${second.toFixed(2)} seconds: ${said}`);
    status.textContent = `${second.toFixed(2)} s: ${said}`;
  }

  function seek(wanted) {
    show(wanted);
    film.currentTime = (reached(frames, second) - 0.5) / fps;
  }

  function follow() {
    if (!isPointed) show(filmSecond());
    if (!film.paused) requestAnimationFrame(follow);
  }

  function pointed(event) {
    const box = chart.getBoundingClientRect(), share = (event.clientX - box.left) / box.width;
    return first + ((share - left) / (right - left)) * (last - first);
  }

  chart.addEventListener("pointermove", (event) => {
    isPointed = true;
    if (film.paused) seek(pointed(event));
    else show(pointed(event));
  });
  chart.addEventListener("pointerleave", () => {
    isPointed = false;
    if (!film.paused) follow();
  });
  chart.addEventListener("click", (event) => seek(pointed(event)));
  line.addEventListener("keydown", (event) => {
    const at = moment(), moves = { ArrowLeft: at - 1, ArrowRight: at + 1, Home: 0, End: values.length - 1 };
    if (!(event.key in moves)) return;
    film.pause();
    seek(edges[Math.max(0, Math.min(values.length - 1, moves[event.key]))]);
    event.preventDefault();
  });
  for (const name of ["play", "seeked"]) {
    film.addEventListener(name, () => { if (name === "play" || !film.paused) follow(); });
  }
  // the film's own slider, while it stands
  film.addEventListener("seeking", () => { if (!isPointed && document.activeElement === film) show(filmSecond()); });

  line.className = "sur-cursor";
  line.tabIndex = 0;
  line.style.top = `${100 * top}%`;
  line.style.height = `${100 * (bottom - top)}%`;
  const known = { role: "slider", "aria-label": "Moment of the video", "aria-valuemin": first, "aria-valuemax": last };
  for (const [name, value] of Object.entries(known)) line.setAttribute(name, value);
  chart.setAttribute("role", "group");  // what is inside a picture is told to nobody
  chart.append(line);
  root.hidden = false;
  show(first);
}
