// Keeps the parts of an open page current. Without it pages are loaded again instead.
"use strict";

(() => {
  const main = document.querySelector("main[data-live]");
  if (!main) {
    return;
  }
  const source = new EventSource(main.dataset.live);

  // Each event has the id of an element and its new content, made and escaped by the server.
  source.addEventListener("part", (event) => {
    const { id, html } = JSON.parse(event.data);
    const part = document.getElementById(id);
    const focused = document.activeElement;
    if (part && !(focused && part.contains(focused))) {
      part.innerHTML = html;
    }
  });

  // What the page was about is over, and there is another page for it.
  source.addEventListener("over", () => {
    source.close();
    location.reload();
  });

  addEventListener("pagehide", () => source.close());
})();
