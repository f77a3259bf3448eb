// Elements, and tables that keep their rows: only cells whose content changed are made anew,
// so that what a person reads, selects or has focused stays where it is.

export const byId = (id) => document.getElementById(id);

// An element with attributes; children are elements or text.
export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// Changes text only where it differs.
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// A table whose rows are kept by key. A column has `label`, `text(item)`, and where that
// is not all there is to see, `draw(item)`, which is called only where `text` changed.
export class Table {
  constructor(id, columns, options = {}) {
    this.element = byId(id);
    this.head = this.element.tHead;
    this.body = this.element.tBodies[0];
    this.columns = columns;
    this.options = options;
    this.rows = new Map();
    this.shown = null;
  }

  // The columns that have something to say.
  settle(items) {
    const shown = this.columns.filter((column) => column.when === undefined || column.when(items));
    const labels = shown.map((column) => column.label).join("\n");
    if (labels === this.shown) return;
    this.shown = labels;
    this.visible = shown;
    this.rows.clear();
    this.body.replaceChildren();
    const row = make("tr", { role: "row" });
    for (const column of shown) {
      const cell = make("th", { role: "columnheader", scope: "col", title: column.title });
      if (column.number) cell.className = "number";
      if (this.options.sort && column.order) {
        const button = make("button", { type: "button" }, column.label);
        button.addEventListener("click", () => this.options.sort(column));
        cell.append(button);
      } else {
        cell.append(column.label);
      }
      column.head = cell;
      row.append(cell);
    }
    this.head.replaceChildren(row);
  }

  show(items, key, nothing) {
    this.settle(items);
    // What goes, goes first: otherwise the rows behind it would be moved, and lose the focus.
    const wanted = new Set(items.map((item) => String(key(item))));
    for (const [name, row] of this.rows) {
      if (!wanted.has(name)) {
        row.remove();
        this.rows.delete(name);
      }
    }
    this.empty?.remove();
    this.empty = null;
    let place = this.body.firstChild;
    for (const item of items) {
      const name = String(key(item));
      let row = this.rows.get(name);
      if (row === undefined) {
        row = this.begin(name);
        this.rows.set(name, row);
      }
      this.visible.forEach((column, at) => {
        const cell = row.cells[at];
        const text = column.text(item);
        if (cell.said === text) return;
        cell.said = text;
        if (column.draw) cell.replaceChildren(...[column.draw(item)].flat());
        else cell.textContent = text;
      });
      if (row === place) place = place.nextSibling;
      else this.body.insertBefore(row, place);
    }
    if (items.length === 0) {
      const cell = make("td", { role: "cell", class: "nothing wide", colspan: this.visible.length }, nothing);
      this.empty = make("tr", { role: "row", class: "nothing" }, cell);
      this.body.append(this.empty);
    }
    this.head.hidden = items.length === 0;
  }

  begin(name) {
    const row = make("tr", { role: "row", "data-key": name });
    this.visible.forEach((column, at) => {
      const cell =
        at === 0 && this.options.named
          ? make("th", { role: "rowheader", scope: "row" })
          : make("td", { role: "cell", "data-label": column.label });
      if (column.number) cell.classList.add("number");
      if (column.wide) cell.classList.add("wide");
      if (column.state) cell.classList.add("state-cell");
      row.append(cell);
    });
    return row;
  }
}

export function state(word, tone, more) {
  const element = make("span", { class: "state", "data-tone": tone }, word);
  if (more) element.append(" ", make("small", {}, more));
  return element;
}

// A number with a bar that tells its part of the largest one.
export function withBar(text, part) {
  const fill = make("i");
  fill.style.width = `${Math.round(Math.min(1, part) * 100)}%`;
  return [make("span", { class: "bar", "aria-hidden": "true" }, fill), text];
}

// Pairs of a name and a value; a list is made anew only where a name came or went.
export function pairs(list, wanted) {
  const names = wanted.map(({ name }) => name).join("\n");
  if (list.said !== names) {
    list.said = names;
    list.replaceChildren(
      ...wanted.map(({ name, inDiv }) =>
        inDiv ? make("div", {}, make("dt", {}, name), make("dd")) : make("dt", {}, name),
      ),
    );
    if (!wanted[0]?.inDiv) for (const dt of list.querySelectorAll("dt")) dt.after(make("dd"));
  }
  const values = list.querySelectorAll("dd");
  wanted.forEach(({ value, more, tone, inDiv }, at) => {
    const text = more ? `${value} ${more}` : value;
    if (values[at].textContent !== text) {
      values[at].replaceChildren(value, ...(more ? [" ", make("small", {}, more)] : []));
    }
    if (inDiv) values[at].parentElement.dataset.tone = tone ?? "";
  });
}
