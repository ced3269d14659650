"use strict";
const $ = (id) => document.getElementById(id);
const { key, images } = JSON.parse($("data").textContent);
const TINY = 64; // pixels; an image up to that size is shown with sharp pixels
let marks = {}; // image id -> whether the image shows its class
let at = 0; // place of the image that is shown; images.length at the end
let past = []; // places answered since the page was opened, for "back one"

const say = (text) => ($("message").textContent = text);
const count = () => images.filter((image) => image.id in marks).length;
const progress = () => `${count()} of ${images.length} marked`;
// -- marks as text: saved, loaded, and kept in the browser --
function written() {
  const sorted = Object.fromEntries(Object.entries(marks).sort(([a], [b]) => (a < b ? -1 : 1)));
  const content = { schema: 1, annotator: $("annotator").value.trim(), marks: sorted };
  return JSON.stringify(content, null, 1) + "\n";
}
function read(text) {
  const content = JSON.parse(text);
  const good = ([id, mark]) => /^[0-9a-f]{16}$/.test(id) && typeof mark === "boolean";
  const all = content.schema === 1 && typeof content.annotator === "string";
  if (!all || !Object.entries(content.marks).every(good)) throw new Error("these are no marks");
  return content;
}
function keep() {
  try {
    localStorage.setItem(key, written());
  } catch {
    say("This browser keeps nothing: save the marks before you close the page.");
  }
}
function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([written()], { type: "application/json" }));
  link.download = "annotations.json";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  say(`Saved: ${progress()}.`);
}
async function load() {
  const [file] = $("load").files;
  $("load").value = ""; // so that the same file may be chosen again
  let content;
  try {
    content = read(await file.text());
  } catch {
    return say(`${file.name} is not a file of marks.`);
  }
  const [here, there] = [$("annotator").value.trim(), content.annotator.trim()];
  if (count() && there && here !== there) {
    return say(`These are marks of ${there}; to load them, start again first.`);
  }
  begin({ ...marks, ...content.marks }, there || here);
  say(`Loaded: ${progress()}.`);
}
// -- marking --
function begin(newMarks, annotator) {
  marks = newMarks;
  past = [];
  $("annotator").value = annotator;
  keep();
  next(0);
}
const again = () => confirm(`Remove all marks here (${progress()})?`) && begin({}, "");
// To the first image without a mark from a place on, else to the first of all, else to the end.
function next(from) {
  const unmarked = images.flatMap((image, i) => (image.id in marks ? [] : [i]));
  show(unmarked.find((i) => i >= from) ?? unmarked[0] ?? images.length);
}
function answer(mark) {
  if (at === images.length) return;
  marks[images[at].id] = mark;
  past.push(at);
  say("");
  keep();
  next(at + 1);
}
const back = () => show(past.pop() ?? Math.max(at - 1, 0));
function show(place) {
  at = place;
  const ended = at === images.length;
  [$("progress").max, $("progress").value] = [images.length, count()];
  if ($("marking").hidden !== ended) {
    [$("marking").hidden, $("done").hidden] = [ended, !ended];
    $(ended ? "done" : "now").focus();
  }
  $("summary").textContent = `${progress()}.`;
  if (ended) return;
  const { id, shows, src } = images[at];
  const said = id in marks ? `, you said ${marks[id] ? "yes" : "no"}` : "";
  [$("image").src, $("image").alt] = [src, `generated image ${at + 1}`];
  $("name").textContent = shows;
  $("place").textContent = `${at + 1} of ${images.length}${said}`;
}
// -- keys and buttons --
const [yes, no] = [() => answer(true), () => answer(false)];
const KEYS = { ArrowRight: yes, y: yes, ArrowLeft: no, n: no, Backspace: back, u: back };
document.addEventListener("keydown", (event) => {
  const typing = event.target === $("annotator");
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (typing && event.key === "Enter") $("annotator").blur();
  if (typing || !act || event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  event.preventDefault();
  act();
});
$("image").addEventListener("load", ({ target }) => {
  target.classList.toggle("tiny", Math.max(target.naturalWidth, target.naturalHeight) <= TINY);
});
for (const [id, act] of Object.entries({ yes, no, back, save, again })) {
  $(id).addEventListener("click", act);
}
$("load").addEventListener("change", load);
$("annotator").addEventListener("input", keep);
let kept = null; // it stays so where nothing is kept, or nothing may be
try {
  kept = read(localStorage.getItem(key));
} catch {}
begin(kept?.marks ?? {}, kept?.annotator ?? "");
