// The table of names and answers. Gradio runs this once a component with: element, props, watch.

const find = (selector) => element.querySelector(selector);
const colours = (id) => props.palette[(id - 1) % props.palette.length];

function cell(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  if (kind === "th") made.scope = "col";
  return made;
}

function rowOf(id, cells) {
  const row = document.createElement("tr"), button = document.createElement("button");
  const [fill, ink] = colours(id);
  button.type = "button";
  button.textContent = `<region${id}>`;
  button.title = "Put it into the message";
  Object.assign(button.style, { background: fill, color: ink });
  // As its chip does; a region that has been removed has none.
  button.onclick = () => {
    const chip = document.querySelector(`#rc .rc-chip[data-region="${id}"] .rc-insert`);
    if (chip) chip.click();
  };
  const first = document.createElement("td");
  first.append(button);
  row.append(first, ...cells);
  return row;
}

// `table`: {named: [[id, name, score], …], csv}; of a question also {question, status, asked, rows: [[id, answer, likeliest], …]}.
function render() {
  const { named = [], rows = [], question, status, asked, csv } = props.table;
  const asks = question !== undefined, names = new Map(named.map(([id, ...label]) => [id, label]));
  const answers = new Map(rows.map(([id, ...said]) => [id, said])), noted = rows.some(([, , note]) => note);
  find(".at").hidden = csv === undefined;
  const titles = ["Region", ...(named.length ? ["Name", "Score"] : []), ...(asks ? ["Answer"] : []), ...(noted ? ["Likeliest"] : [])];
  find("thead tr").replaceChildren(...titles.map((title) => cell("th", title, title === "Score" ? "at-score" : "")));
  const ids = [...new Set([...names.keys(), ...answers.keys()])].sort((a, b) => a - b);
  find("tbody").replaceChildren(...ids.map((id) => {
    const [name, score] = names.get(id) || ["", null], cells = [];
    if (named.length) cells.push(cell("td", name), cell("td", score === null ? "" : score.toFixed(2), "at-score"));
    const [answer, note] = answers.get(id) || ["", ""];
    if (asks) cells.push(cell("td", answer));
    if (noted) cells.push(cell("td", note));
    return rowOf(id, cells);
  }));
  find(".at-question").textContent = asks ? question : "Found and named";
  find(".at-csv").disabled = !ids.length;
  find(".at-note").textContent = !asks ? "" : status === "running" ? `${rows.length} of ${asked} answered …`
    : rows.length < asked ? `${status}: ${rows.length} of ${asked} answered` : "";
}

find(".at-csv").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([props.table.csv], { type: "text/csv" }));
  link.download = props.table.question === undefined ? "regions.csv" : "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
watch(["table"], render);
render();
element.dataset.ready = "1";
