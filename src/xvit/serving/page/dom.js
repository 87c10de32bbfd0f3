// Small helpers for elements and text.

/** The element with an id. */
export const byId = (id) => document.getElementById(id);

/** A new element with properties and children; `style` is an object, names with a dash are attributes. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "style") {
      for (const [key, text] of Object.entries(value)) node.style.setProperty(key, text);
    } else if (name.includes("-") || name === "role") {
      node.setAttribute(name, value);
    } else {
      node[name] = value;
    }
  }
  node.append(...children);
  return node;
}

/** Show or hide an element. */
export function show(node, visible = true) {
  node.hidden = !visible;
}

/** A class name as text. */
export const displayName = (label) => label.replaceAll("_", " ");

/** A score in [0, 1] as text, such as "97 %". */
export function percent(score) {
  const value = 100 * score;
  if (value > 0 && value < 1) return "< 1 %";
  return value > 99 && value < 100 ? "> 99 %" : `${Math.round(value)} %`;
}

/** Seconds as text: "1.25 s" below a minute, "2:05" above. */
export function time(seconds, digits = 1) {
  if (seconds < 60) return `${seconds.toFixed(digits)} s`;
  const whole = Math.floor(seconds);
  const two = (value) => String(value).padStart(2, "0");
  const minutes = Math.floor(whole / 60) % 60;
  const hours = Math.floor(whole / 3600);
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)}` : `${minutes}:${two(whole % 60)}`;
}

/** A number with two digits after the point. */
export const number = (value) => value.toFixed(2).replace("-", "−");

/** A number with its sign, such as "+1.25". */
export const signed = (value, digits = 2) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(digits)}`;

/** A message as a sentence: with a capital at the start and a full stop at the end. */
export function sentence(text) {
  const trimmed = text.trim();
  const start = trimmed.charAt(0).toUpperCase() + trimmed.slice(1);
  return /[.!?]$/.test(start) ? start : `${start}.`;
}

/** Size a canvas for the screen; returns its context, in CSS pixels. */
export function sizeCanvas(canvas, width, height) {
  const ratio = window.devicePixelRatio || 1;
  canvas.width = Math.max(1, Math.round(width * ratio));
  canvas.height = Math.max(1, Math.round(height * ratio));
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return context;
}

/** The value of a custom property of the style sheet, such as "--text". */
export const styleValue = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
