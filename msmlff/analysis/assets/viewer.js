"use strict";
// Draws each viewer of the page when it comes into view: one canvas a viewer, a button a structure.
const VIEWERS = {};

function legendOf(scene) {
  const words = [];
  if (scene.values) {
    const bar = `linear-gradient(90deg, ${scene.scale.join(", ")})`;
    words.push(["0", ""], ["", bar], [`${scene.largest}  ${scene.quantity}`, ""]);
  } else {
    for (const [symbol, colour] of scene.legend) words.push(["", colour], [symbol, ""]);
  }
  return words.map(([text, background]) => {
    const span = document.createElement("span");
    span.textContent = text;
    if (background) {
      span.className = background.startsWith("#") ? "dot" : "bar";
      span.style.background = background;
    }
    return span;
  });
}

function show(name, data, index) {
  const scene = data.scenes[index];
  const box = document.getElementById(name);
  let viewer = VIEWERS[name];
  if (!viewer) {
    viewer = VIEWERS[name] = $3Dmol.createViewer(box, { backgroundColor: "white", antialias: true, disableFog: true });
  }
  viewer.removeAllModels();
  viewer.removeAllShapes();
  viewer.removeAllLabels();
  const model = viewer.addModel();
  const neighbours = scene.elements.map(() => []);
  for (const [a, b] of scene.bonds) { neighbours[a].push(b); neighbours[b].push(a); }
  model.addAtoms(scene.elements.map((elem, i) => {
    const [x, y, z] = scene.positions[i];
    return { elem, x, y, z, index: i, serial: i, bonds: neighbours[i], bondOrder: neighbours[i].map(() => 1),
             color: parseInt(scene.colours[i].slice(1), 16) };
  }));
  for (const radius of new Set(scene.radii)) {
    const chosen = scene.radii.flatMap((r, i) => (r === radius ? [i] : []));
    const style = { sphere: { radius: scene.bonds.length ? 0.8 * radius : 1.6 * radius } };
    if (scene.bonds.length) style.stick = { radius: 0.1 };
    viewer.setStyle({ index: chosen }, style);
  }
  for (const [from, to] of scene.cell) {
    const [start, end] = [from, to].map(([x, y, z]) => ({ x, y, z }));
    viewer.addCylinder({ start, end, radius: 0.025, color: "#5b6775", fromCap: 1, toCap: 1 });
  }
  viewer.setHoverable({}, true, (atom) => {
    const value = scene.values ? `: ${scene.values[atom.index]} ${scene.quantity}` : "";
    viewer.addLabel(`${atom.elem} ${atom.index}${value}`, {
      position: atom, fontSize: 12, backgroundColor: "#1f2933", backgroundOpacity: 0.85, inFront: true });
  }, () => viewer.removeAllLabels());
  viewer.zoomTo();
  viewer.rotate(12, "x"); // turns are about the structure's own axes: z upwards comes last
  viewer.rotate(24, "y");
  viewer.rotate(-90, "x");
  viewer.render();
  document.getElementById(`${name}-legend`).replaceChildren(...legendOf(scene));
  for (const button of document.querySelectorAll(`[data-viewer="${name}"]`)) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.scene) === index));
  }
  box.dataset.drawn = scene.label;
}

for (const source of document.querySelectorAll("script[data-structures]")) {
  const name = source.dataset.structures;
  const box = document.getElementById(name);
  const data = JSON.parse(source.textContent);
  const draw = (index) => {
    try {
      show(name, data, index);
    } catch (error) {
      box.textContent = "The structures need WebGL, which this browser does not offer.";
      box.dataset.drawn = "nothing";
    }
  };
  const seen = new IntersectionObserver((entries) => {
    if (entries.some((entry) => entry.isIntersecting)) { seen.disconnect(); draw(0); }
  }, { rootMargin: "300px" });
  seen.observe(box);
  for (const button of document.querySelectorAll(`[data-viewer="${name}"]`)) {
    button.addEventListener("click", () => { seen.disconnect(); draw(Number(button.dataset.scene)); });
  }
}
