// The table of answers. Gradio runs this once a component with: element, props, watch.

const find = (selector) => element.querySelector(selector);
const colours = (id) => props.palette[(id - 1) % props.palette.length];

function rowOf([id, answer]) {
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
  const first = document.createElement("td"), second = document.createElement("td");
  first.append(button);
  second.textContent = answer;
  row.append(first, second);
  return row;
}

function render() {
  const table = props.table;
  find(".at").hidden = !table.rows;
  if (!table.rows) {
    find("tbody").replaceChildren();
    return;
  }
  const done = table.rows.length, all = table.asked;
  find(".at-question").textContent = table.question;
  find("tbody").replaceChildren(...table.rows.map(rowOf));
  find(".at-csv").disabled = !done;
  find(".at-note").textContent = table.status === "running" ? `${done} of ${all} answered …`
    : done < all ? `${table.status}: ${done} of ${all} answered` : "";
}

find(".at-csv").onclick = () => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([props.table.csv], { type: "text/csv" }));
  link.download = "answers.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
};
watch(["table"], render);
render();
element.dataset.ready = "1";
