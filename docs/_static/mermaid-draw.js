// Draws the diagrams of a page, and draws them anew when the reader changes between light and dark.
(() => {
  const diagrams = [...document.querySelectorAll("pre.mermaid")].map((element) => [element, element.textContent]);
  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  let drawn;

  function isDark() {
    const theme = document.body.dataset.theme;
    return theme === "dark" || (theme !== "light" && prefersDark.matches);
  }

  async function draw() {
    const dark = isDark();
    if (dark === drawn) return;
    drawn = dark;
    mermaid.initialize({ startOnLoad: false, securityLevel: "strict", theme: dark ? "dark" : "neutral" });
    for (const [index, [element, text]] of diagrams.entries()) {
      const { svg } = await mermaid.render(`diagram-${index}`, text);
      element.innerHTML = svg;
      element.classList.add("drawn");
    }
  }

  new MutationObserver(draw).observe(document.body, { attributes: true, attributeFilter: ["data-theme"] });
  prefersDark.addEventListener("change", draw);
  draw();
})();
