(names) => {
  // The names that were typed before the page was loaded again, else those that came with it.
  try { return sessionStorage.getItem("rgpt-names") ?? names; } catch { return names; }
}
