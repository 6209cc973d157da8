// Small helpers: lists of facts, rows of a table, durations. Text only ever goes in as text.
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
    dd.className = name === "saturated" && value > 0 ? "hot" : "";
    list.children[i].className = String(value).length > 15 ? "wide" : "";
  });
}

export function fill(table, rows) {
  table.replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    row.append(...cells.map(({ text, title = "", className = "" }) =>
      Object.assign(document.createElement("td"), { textContent: text, title, className })));
    return row;
  }));
}

export function since(time) {
  const seconds = Math.max(0, Math.round(Date.now() / 1000 - time));
  return seconds < 90 ? `${seconds} s` : `${Math.floor(seconds / 60)} min`;
}

export function number(value) {
  return value == null ? null : Number.isInteger(value) ? value.toLocaleString("en") : String(value);
}
