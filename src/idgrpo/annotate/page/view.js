// What is on the screen; no state of its own.

import { ABOUT_PEOPLE, ACTIONS, keyLabel } from "./keys.js";

export const $ = (id) => document.getElementById(id);
const SMALL_PX = 128;

export function showPair(pair) {
  $("prompt").textContent = pair.prompt;
  $("references").replaceChildren(...pair.references.map((reference, i) => {
    const item = document.createElement("li");
    item.className = "reference";
    const faces = document.createElement("span");
    faces.className = "faces";
    reference.sources.forEach((source, k) => {
      const image = document.createElement("img");
      image.alt = `Person ${i + 1}, ${reference.person}: reference picture ${k + 1}`;
      image.onload = () => image.classList.toggle("tiny", image.naturalHeight < SMALL_PX);
      image.src = source;
      faces.append(image);
    });
    const name = document.createElement("span");
    name.className = "name";
    const number = document.createElement("b");
    number.textContent = String(i + 1); // as prompts count them: Person 1, Person 2
    name.append(number, ` ${reference.person || `Person ${i + 1}`}`);
    name.title = reference.person || `Person ${i + 1}`;
    item.append(faces, name);
    return item;
  }));
}

export function fitStage(left, right) {
  const ratio = Math.max(left.videoWidth / left.videoHeight, right.videoWidth / right.videoHeight) || 16 / 9;
  const stage = $("stage");
  stage.style.setProperty("--ratio", ratio.toFixed(4));
  stage.style.setProperty("--aspect", ratio.toFixed(4));
  stage.classList.toggle("wide", ratio > 1.25);
  for (const video of [left, right]) video.classList.toggle("tiny", video.videoHeight < SMALL_PX);
}

export function showProgress({ mine, left }, secondsEach) {
  const share = mine + left ? (100 * mine) / (mine + left) : 0;
  $("fill").style.width = `${share}%`;
  $("track").setAttribute("aria-valuenow", Math.round(share));
  const minutes = Math.round((left * secondsEach) / 60);
  const time = !secondsEach || !left ? "" : minutes < 1 ? " · under a minute" : ` · ${minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`}`;
  $("counts").textContent = `${mine} done · ${left} left${time}`;
}

export function showSaved(state, text) {
  $("saved").dataset.state = state;
  $("saved").textContent = text;
}

export function showKeys(keys) {
  for (const element of document.querySelectorAll("kbd[data-key]")) element.textContent = keyLabel(keys.codes[element.dataset.key]);
}

export function showKeyTable(keys, listen, asksPeople) {
  const shown = Object.entries(ACTIONS).filter(([action]) => asksPeople || !ABOUT_PEOPLE.includes(action));
  $("keys").replaceChildren(...shown.map(([action, [label]]) => {
    const row = document.createElement("tr");
    const what = document.createElement("td");
    what.textContent = label;
    const cell = document.createElement("td");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.action = action;
    button.textContent = keyLabel(keys.codes[action]).toUpperCase();
    button.setAttribute("aria-label", `${label}: ${button.textContent}. Press to change`);
    button.onclick = () => listen(action, button);
    cell.append(button);
    row.append(what, cell);
    return row;
  }));
}

export function showPause(title, text, undo) {
  $("work").hidden = true;
  $("pause").hidden = false;
  $("pause-title").textContent = title;
  $("pause-text").textContent = text;
  $("pause-undo").hidden = !undo;
}

export function showWork() {
  $("pause").hidden = true;
  $("work").hidden = false;
}
