() => {
  const titles = { every: "Ask the question in the message box about every region at once", ovl: "The picture with its numbered regions",
                   exp: "Picture, regions and chat as one file", imp: "Open such a file" };
  Object.entries(titles).forEach(([id, title]) => document.getElementById(id)?.setAttribute("title", title));
  // The names that Find all chooses among, for a reload of the page; see names_back.js.
  document.addEventListener("input", (event) => {
    if (!event.target.matches("#voc textarea")) return;
    try { sessionStorage.setItem("rgpt-names", event.target.value); } catch { /* then a reload begins anew */ }
  });
  // Colour <regionN> in the chat as on the canvas. The CSS Custom Highlight API changes no markup, so that what is
  // copied stays plain text.
  if (!CSS.highlights) return;
  const size = PALETTE_SIZE;
  const paint = () => {
    const chat = document.querySelector("#cb");
    const found = Array.from({ length: size }, () => []);
    const walker = chat && document.createTreeWalker(chat, NodeFilter.SHOW_TEXT);
    for (let node = walker && walker.nextNode(); node; node = walker.nextNode()) {
      for (const match of node.data.matchAll(/<region(\d{1,4})>/g)) {
        const range = new Range();
        range.setStart(node, match.index);
        range.setEnd(node, match.index + match[0].length);
        found[(Number(match[1]) + size - 1) % size].push(range);
      }
    }
    found.forEach((ranges, index) => {
      if (ranges.length) CSS.highlights.set(`region${index}`, new Highlight(...ranges));
      else CSS.highlights.delete(`region${index}`);
    });
  };
  let due = false;
  new MutationObserver(() => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => { due = false; paint(); });
  }).observe(document.body, { subtree: true, childList: true, characterData: true });
}
