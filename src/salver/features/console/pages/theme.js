// Before the page is drawn, so that a dark one never flashes light.
{
  let chosen = "";
  try {
    chosen = localStorage.getItem("salver-theme") ?? "";
  } catch {
    // a browser that keeps nothing follows the system
  }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
}
