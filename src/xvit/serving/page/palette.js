// Colours of classes. They differ with all kinds of colour vision too; after the last one they begin again, striped.

const COLORS = ["#2563eb", "#ea7317", "#159751", "#b527a6", "#ffc600", "#40c1ff"];
const BACKGROUND = { name: "background", color: "#94a3b8" }; // the class for what is no event

/** The colours of class names in order: {color, striped} by name. */
export function classColors(names) {
  const events = names.filter((name) => name !== BACKGROUND.name);
  const colors = new Map([[BACKGROUND.name, { color: BACKGROUND.color, striped: false }]]);
  events.forEach((name, index) => {
    const cycle = Math.floor(index / COLORS.length);
    colors.set(name, { color: COLORS[index % COLORS.length], striped: cycle % 2 === 1 });
  });
  return colors;
}

/** Give an element the colour of a class. */
export function paint(node, { color, striped }) {
  node.style.setProperty("--class-color", color);
  node.classList.toggle("striped", striped);
}
