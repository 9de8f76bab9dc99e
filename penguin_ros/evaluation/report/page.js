// Filters of the questions. Their state is in the address, so that a view can be shared as a link:
// report.html#verdict=wrong-0&kind=count
"use strict";
(() => {
  const form = document.querySelector(".filters");
  const cards = [...document.querySelectorAll("article")];
  const output = form.querySelector("output");
  const none = document.querySelector(".none");

  function passes(card, name, value) {
    if (name === "search") return card.dataset.search.includes(value.toLowerCase());
    if (name === "verdict") return card.dataset.verdict.split(" ").includes(value);
    return card.dataset[name] === value;
  }

  function apply() {
    const active = [...form.querySelectorAll("select, input[type=search]")].filter((field) => field.value);
    let shown = 0;
    for (const card of cards) {
      card.hidden = !active.every((field) => passes(card, field.name, field.value));
      shown += !card.hidden;
    }
    output.textContent = `${shown} of ${cards.length}`;
    none.hidden = shown > 0 || cards.length === 0;
    for (const box of form.querySelectorAll("input[type=checkbox]"))
      document.body.classList.toggle(`hide-${box.name}`, !box.checked);
    return active;
  }

  function remember() {
    const state = new URLSearchParams(apply().map((field) => [field.name, field.value]));
    history.replaceState(null, "", state.size ? `#${state}` : location.pathname + location.search);
  }

  function restore() {
    const hash = location.hash.slice(1);
    if (!hash.includes("=")) return; // a link to a question
    const state = new URLSearchParams(hash);
    for (const field of form.querySelectorAll("select, input[type=search]")) field.value = state.get(field.name) ?? "";
    apply();
  }

  form.addEventListener("input", remember);
  form.addEventListener("submit", (event) => event.preventDefault());
  // A link to a question that is filtered out resets the filters.
  window.addEventListener("hashchange", () => {
    restore();
    const target = document.getElementById(location.hash.slice(1));
    if (target && target.hidden) {
      form.reset();
      apply();
      target.scrollIntoView();
    }
  });
  restore();
})();
