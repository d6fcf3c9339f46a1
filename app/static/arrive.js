() => {
  // What was on the canvas of this tab before the page was loaded again. A browser may forbid the storage.
  // The second value stands for the gr.State, which never leaves the server.
  try { return [sessionStorage.getItem("rgpt") || "", null]; } catch { return ["", null]; }
}
