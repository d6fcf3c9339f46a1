(parcel) => {
  // Makes a file of {name, type, text} or {name, type, base64}; returns what the hidden box then holds: nothing.
  if (!parcel) return "";
  const { name, type, text, base64 } = JSON.parse(parcel);
  const content = base64 === undefined ? text : Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([content], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return "";
}
