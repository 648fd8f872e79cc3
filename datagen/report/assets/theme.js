// Light, dark, or what the reader's system says.
(() => {
  const button = document.getElementById("theme");
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const kept = (value) => {
    try {
      if (value !== undefined) localStorage.setItem("datagen-theme", value);
      return localStorage.getItem("datagen-theme");
    } catch {
      return null;
    }
  };
  const set = (theme) => {
    if (theme === "dark" || theme === "light") document.documentElement.dataset.theme = theme;
    const now = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
    button.textContent = now === "dark" ? "Light" : "Dark";
    button.setAttribute("aria-label", now === "dark" ? "Use light colours" : "Use dark colours");
  };
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme || (dark.matches ? "dark" : "light");
    const next = now === "dark" ? "light" : "dark";
    kept(next);
    set(next);
  });
  dark.addEventListener("change", () => set(null));
  set(kept());
})();

for (const button of document.querySelectorAll("button[data-copy]")) {
  button.addEventListener("click", async () => {
    const source = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(source.textContent);
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Selected";
    }
    setTimeout(() => (button.textContent = "Copy"), 2000);
  });
}
