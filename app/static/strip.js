// A row of tiles to choose a picture. Gradio runs this once a component with: element, props, trigger.

const row = element.querySelector(".ps");
const add = (content, name, action) => {
  const button = document.createElement("button");
  button.type = "button";
  button.setAttribute("aria-label", name);
  button.title = name;
  button.append(content);
  button.onclick = action;
  row.append(button);
  return button;
};
const uploadInput = () => document.querySelector(props.upload_input);
add("Upload", "Upload a picture", () => { if (uploadInput()) uploadInput().click(); }).className = "ps-word";
props.pictures.forEach((source, index) => {
  const image = new Image();
  image.src = source;
  image.alt = "";
  add(image, `Example picture ${index + 1}`, () => trigger("pick", { index }));
});
if (props.new_scene) add("Draw a new one", "Draw a new scene", () => trigger("pick", { index: -1 })).className = "ps-word";
element.dataset.ready = "1";
