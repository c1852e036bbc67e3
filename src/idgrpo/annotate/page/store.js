// What the browser keeps. Where it keeps nothing (storage is blocked or full) memory does until the page closes, and the page says so.

const memory = new Map();
let trouble = null;
let told = () => {};

function note(error) {
  if (trouble) return;
  trouble = error?.name === "QuotaExceededError" ? "full" : "blocked";
  told(trouble);
}

export function onTrouble(listener) {
  told = listener;
  if (trouble) listener(trouble);
}
export const isKept = () => trouble === null;

export function recall(key, area = "localStorage") {
  if (memory.has(key)) return memory.get(key);
  try { return window[area].getItem(key); } catch (error) { note(error); return null; }
}

// `spare` names what may go to make room: votes matter more than the list of old ones.
export function keep(key, value, { area = "localStorage", spare = null } = {}) {
  try {
    window[area].setItem(key, value);
    memory.delete(key);
    return true;
  } catch (error) {
    if (spare && spare !== key) {
      try { window[area].removeItem(spare); window[area].setItem(key, value); memory.delete(key); return true; } catch { /* told below */ }
    }
    memory.set(key, value);
    note(error);
    return false;
  }
}

export function forget(key, area = "localStorage") {
  memory.delete(key);
  try { window[area].removeItem(key); } catch (error) { note(error); }
}
