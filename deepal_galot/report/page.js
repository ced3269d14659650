"use strict";

// Sorts a table by the column whose header button was pressed: numbers from the largest first,
// words from A first, and the other way round when pressed again. Empty cells stay last.

function key(row, column) {
  const cell = row.cells[column];
  return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
}

// Words count as more than any number: "> 100" labels, or "never".
function compare(a, b) {
  if (typeof a !== typeof b) return typeof a === "number" ? -1 : 1;
  return typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
}

function direction(header, keys) {
  const now = header.getAttribute("aria-sort");
  if (now) return now === "ascending" ? "descending" : "ascending";
  return keys.some((k) => typeof k === "number") ? "descending" : "ascending";
}

function sort(button) {
  const header = button.closest("th");
  const column = header.cellIndex;
  const body = header.closest("table").tBodies[0];
  const rows = [...body.rows].map((row) => ({ row, key: key(row, column) }));
  const order = direction(header, rows.map((r) => r.key));
  const sign = order === "ascending" ? 1 : -1;
  rows.sort((a, b) => (a.key === "") - (b.key === "") || sign * compare(a.key, b.key));
  body.append(...rows.map((r) => r.row));
  for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", order);
  document.getElementById("said").textContent = `sorted by ${button.textContent}, ${order}`;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (button) sort(button);
});
