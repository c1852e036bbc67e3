// Keys are physical (KeyboardEvent.code), so they stay in place on every layout; each can be moved, none shared.

export const ACTIONS = {
  left: ["Left is better", "KeyF"], right: ["Right is better", "KeyJ"], tie: ["Tie", "KeyT"], both_bad: ["Both bad", "KeyB"],
  skip: ["Skip, with a reason", "KeyS"], undo: ["Undo the last vote, again and again", "KeyU"],
  play: ["Play or pause", "Space"], back: ["One frame back", "Comma"], forward: ["One frame forward", "Period"],
  restart: ["Restart", "KeyR"], loop: ["Loop", "KeyL"], flip: ["Flip: both clips in one place", "KeyX"],
  peek: ["Hold while flipped: see the other clip", "KeyC"], slower: ["Slower", "BracketLeft"], faster: ["Faster", "BracketRight"],
  help: ["This help", "Slash"],
};
const STORE = "idgrpo-keys";
const RESERVED = new Set(["Tab", "Escape", "Enter", "NumpadEnter", "F5", "F11", "F12"]);
const NAMES = { Space: "space", Comma: ",", Period: ".", Slash: "?", BracketLeft: "[", BracketRight: "]", Semicolon: ";", Quote: "'", Minus: "-", Equal: "=", Backslash: "\\", Backquote: "`" };

export function keyLabel(code) {
  return NAMES[code] ?? code.replace(/^(Key|Digit|Arrow|Numpad)/, "");
}

export class Keys {
  constructor() {
    this.codes = Object.fromEntries(Object.entries(ACTIONS).map(([action, [, code]]) => [action, code]));
    try {
      for (const [action, code] of Object.entries(JSON.parse(localStorage.getItem(STORE) ?? "{}"))) {
        if (action in ACTIONS && typeof code === "string") this.codes[action] = code;
      }
    } catch { localStorage.removeItem(STORE); }
    if (new Set(Object.values(this.codes)).size < Object.keys(this.codes).length) this.reset();
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
    localStorage.setItem(STORE, JSON.stringify(this.codes));
    return null;
  }

  reset() {
    for (const [action, [, code]] of Object.entries(ACTIONS)) this.codes[action] = code;
    localStorage.removeItem(STORE);
  }
}
