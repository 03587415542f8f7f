"use strict";
(() => {
  const datasets = JSON.parse(document.getElementById("datasets").textContent);
  const packed = document.getElementById("viewer-code");
  const viewers = {};
  let running;

  // chemiscope travels compressed, and runs only when a 3D view comes into sight.
  const chemiscope = () => {
    running ??= (async () => {
      const bytes = Uint8Array.from(atob(packed.textContent.trim()), (c) => c.charCodeAt(0));
      const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
      const script = document.createElement("script");
      script.textContent = await new Response(stream).text();
      document.head.append(script);
      return window.Chemiscope;
    })();
    return running;
  };

  const first = (dataset, structure) => dataset.environments.findIndex((one) => one.structure === structure);

  // chemiscope has no setting for the colour behind the atoms (its letters are black); where its insides have other names it stays white.
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const paint = (viewer) => {
    const colour = getComputedStyle(document.documentElement).getPropertyValue("--stage").trim();
    for (const cell of viewer?.structure?._cellsData?.values() ?? []) cell.viewer?._viewer?.setBackgroundColor?.(colour, 1);
  };
  dark.addEventListener("change", async () => {
    for (const viewer of await Promise.all(Object.values(viewers))) paint(viewer);
  });

  const load = (key) => {
    viewers[key] ??= (async () => {
      const stage = document.getElementById(`${key}-stage`);
      const waiting = stage.querySelector(".waiting");
      waiting.textContent = "The 3D view is loading …";
      try {
        const code = await chemiscope();
        const places = { structure: `${key}-stage`, info: `${key}-info`, meta: `${key}-meta` };
        const viewer = await code.StructureVisualizer.load(places, datasets[key]);
        waiting.remove();
        paint(viewer);
        mark(key, 0);
        return viewer;
      } catch (error) {
        console.warn(error);
        waiting.textContent = "The 3D view needs WebGL and a browser of 2023 or later; the tables hold the numbers.";
        return null;
      }
    })();
    return viewers[key];
  };

  const buttons = (key) => document.querySelectorAll(`button[data-report="${key}"]`);

  const mark = (key, structure) => {
    for (const button of buttons(key)) {
      const chosen = Number(button.dataset.structure) === structure;
      button.setAttribute("aria-pressed", String(chosen));
      if (chosen) document.getElementById(`${key}-shown`).textContent = `Shown: ${button.textContent}`;
    }
    document.getElementById(`${key}-stage`).dataset.structure = structure;
  };

  const show = async (key, structure) => {
    const viewer = await load(key);
    if (viewer === null) return;
    const environment = viewer.saveSettings().target === "atom" ? first(datasets[key], structure) : structure;
    viewer.select({ structure, environment, atom: 0 });
    mark(key, structure);
  };

  const sight = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      sight.unobserve(entry.target);
      load(entry.target.dataset.report);
    }
  });
  for (const element of document.querySelectorAll(".viewer")) {
    if (packed) sight.observe(element);
    else element.hidden = true;
    for (const button of buttons(element.dataset.report)) {
      button.addEventListener("click", () => show(button.dataset.report, Number(button.dataset.structure)));
    }
  }

  // Paper has no summary to click on.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
})();
