// Show one slice at a time: the slider, the wheel, links to slices and the curve choose which.
const viewer = document.querySelector(".viewer");
const slices = [...viewer.querySelectorAll("figure")];
const slider = viewer.querySelector("[type=range]");
const larger = viewer.querySelector("button");
const cursor = document.querySelector(".cursor");

function show(place) {
  slider.value = place; // within its ends
  slices.forEach((slice, k) => { slice.hidden = k !== Number(slider.value); });
  const slice = slices[slider.value];
  slider.setAttribute("aria-valuetext", slice.querySelector("figcaption").innerText);
  if (cursor) cursor.setAttribute("transform", `translate(${slice.dataset.x})`);
}

function enlarge(on) {
  viewer.classList.toggle("large", on);
  larger.textContent = viewer.classList.contains("large") ? "Smaller" : "Larger";
}

function jump(id) {
  show(slices.findIndex((slice) => slice.id === id));
  viewer.scrollIntoView({ block: "nearest" });
  slider.focus({ preventScroll: true });
}

slider.addEventListener("input", () => show(slider.value));
larger.addEventListener("click", () => enlarge());
viewer.querySelector("[type=checkbox]").addEventListener("change", (event) => {
  viewer.classList.toggle("plain", !event.target.checked);
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") enlarge(false);
});
document.addEventListener("click", (event) => {
  const link = event.target.closest("a[href^='#slice-']");
  if (!link) return;
  event.preventDefault();
  jump(link.getAttribute("href").slice(1));
});
for (const picture of viewer.querySelectorAll("figure svg")) {
  picture.addEventListener("click", () => enlarge());
  picture.addEventListener("wheel", (event) => {
    event.preventDefault();
    show(Number(slider.value) + Math.sign(event.deltaY));
  }, { passive: false });
}

viewer.classList.add("single");
show(slices.findIndex((slice) => slice.id === viewer.dataset.first));
