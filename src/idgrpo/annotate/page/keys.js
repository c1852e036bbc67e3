// Keys are physical (KeyboardEvent.code), so they stay in place on every layout; each can be moved, none shared.

import { forget, keep, recall } from "./store.js";

export const ACTIONS = {
  left: ["Left is better", "KeyF"], right: ["Right is better", "KeyJ"], tie: ["Tie", "KeyT"], both_bad: ["Both bad", "KeyB"],
  skip: ["Skip, with a reason", "KeyS"], undo: ["Undo the last vote, again and again", "KeyU"],
  play: ["Play or pause", "Space"], back: ["One frame back", "Comma"], forward: ["One frame forward", "Period"],
  restart: ["Restart", "KeyR"], loop: ["Loop", "KeyL"], flip: ["Flip: both clips in one place", "KeyX"],
  peek: ["Hold while flipped: see the other clip", "KeyC"], slower: ["Slower", "BracketLeft"], faster: ["Faster", "BracketRight"],
  zoom: ["Zoom both clips; arrow keys move", "KeyZ"], comment: ["Comment on this pair", "KeyM"], guidelines: ["Guidelines", "KeyG"],
  own_votes: ["My votes", "KeyV"], pause: ["Pause", "KeyP"], help: ["This help", "Slash"],
  kept: ["Marked person: kept", "Digit1"], changed: ["Marked person: changed", "Digit2"], mixed: ["Marked person: mixed with another", "Digit3"],
  missing: ["Marked person: missing", "Digit4"], next_person: ["Mark the next person", "Digit5"],
};
export const ABOUT_PEOPLE = ["kept", "changed", "mixed", "missing", "next_person"]; // only where the page asks about people
const LATER = [...ABOUT_PEOPLE, "zoom", "comment", "guidelines", "own_votes", "pause"]; // came after people had moved keys
const STORE = "idgrpo-keys";
const RESERVED = new Set(["Tab", "Escape", "Enter", "NumpadEnter", "F5", "F11", "F12"]);
const NAMES = { Space: "space", Comma: ",", Period: ".", Slash: "?", BracketLeft: "[", BracketRight: "]", Semicolon: ";", Quote: "'", Minus: "-", Equal: "=", Backslash: "\\", Backquote: "`" };

export function keyLabel(code) {
  return NAMES[code] ?? code.replace(/^(Key|Digit|Arrow|Numpad)/, "");
}

export class Keys {
  constructor() {
    this.codes = Object.fromEntries(Object.entries(ACTIONS).map(([action, [, code]]) => [action, code]));
    let moved = {};
    try {
      for (const [action, code] of Object.entries(JSON.parse(recall(STORE) ?? "{}"))) {
        if (action in ACTIONS && typeof code === "string") this.codes[action] = moved[action] = code;
      }
    } catch { forget(STORE); }
    // A key moved before these actions came stays where it is; the new action then has none until it is given one.
    for (const action of LATER) {
      if (!(action in moved) && Object.values(moved).includes(this.codes[action])) this.codes[action] = "";
    }
    const taken = Object.values(this.codes).filter(Boolean);
    if (new Set(taken).size < taken.length) this.reset();
  }

  action(code) {
    return Object.keys(this.codes).find((action) => this.codes[action] === code) ?? null;
  }

  // Returns a message if the key cannot be had, else null.
  remap(action, code) {
    if (RESERVED.has(code) || /^(Shift|Control|Alt|Meta)/.test(code)) return `${keyLabel(code)} is taken by the browser.`;
    const owner = this.action(code);
    if (owner && owner !== action) return `${keyLabel(code).toUpperCase()} is already “${ACTIONS[owner][0]}”.`;
    this.codes[action] = code;
    keep(STORE, JSON.stringify(this.codes));
    return null;
  }

  reset() {
    for (const [action, [, code]] of Object.entries(ACTIONS)) this.codes[action] = code;
    forget(STORE);
  }
}
