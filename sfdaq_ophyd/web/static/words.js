// Small helpers: lists of facts, rows of a table, ages. Text only ever goes in as text.
export function facts(list, values) {
  const shown = Object.entries(values).filter(([, value]) => value != null && value !== false && value !== "");
  while (list.children.length > shown.length) list.lastChild.remove();
  while (list.children.length < shown.length) {
    const pair = document.createElement("div");
    pair.append(document.createElement("dt"), document.createElement("dd"));
    list.append(pair);
  }
  shown.forEach(([name, value], i) => {
    const [dt, dd] = list.children[i].children;
    dt.textContent = name;
    dd.textContent = value;
    dd.dataset.fact = name;
    dd.className = name === "saturated" && value !== "0" ? "hot" : "";
    list.children[i].className = String(value).length > 15 ? "wide" : "";
  });
}

export function fill(table, rows) {
  table.replaceChildren(...rows.map(({ cells, head = false, seen }) => {
    const row = document.createElement("tr");
    row.append(...cells.map(({ text, title = "", className = "" }) =>
      Object.assign(document.createElement(head ? "th" : "td"), { textContent: text, title, className })));
    if (seen) { row.classList.add("aged"); age(row, seen); }
    return row;
  }));
}

// Where an element says its age; others inside of it have their own.
const SAID = [":scope > .age", ":scope > h2 > .age", ":scope > p > .age", ":scope > details > summary > .age"].join();

// What an element shows was seen `seen.age` s ago (null: never); it is old after `seen.old_after` s. `seen.what` is put before the age.
export function age(element, seen) {
  element.seen = { at: seen.age == null ? null : performance.now() - 1000 * seen.age, oldAfter: seen.old_after, what: seen.what ?? "" };
  grow(element);
}

export function seconds(element) {
  return element.seen?.at == null ? null : (performance.now() - element.seen.at) / 1000;
}

function grow(element) {
  const old = seconds(element);
  element.classList.toggle("old", old == null || old > element.seen.oldAfter);
  for (const said of element.querySelectorAll(SAID)) said.textContent = old == null ? "" : `${element.seen.what}${span(old)} ago`;
  element.grown?.(old);
}

export function grows() {
  for (const element of document.querySelectorAll(".aged")) if (element.seen) grow(element);
}

export function span(value) {
  if (value < 10) return `${Math.max(0, value).toFixed(1)} s`;
  return value < 90 ? `${Math.round(value)} s` : value < 5400 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}

export function number(value) {
  if (value == null) return null;
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(6)));
}
