// The list of replies, of which only the rows in sight exist, and the one that is chosen. A page says
// what it filters by, where a reply is from, and what is to be told about it (training.js, evaluation.js).

const ROW_HEIGHT = 56;
const SPARE_ROWS = 6;

async function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

async function browse(page) {
  const indexNode = document.getElementById("index");
  if (!indexNode) return;
  const chunkNodes = document.querySelectorAll("script.chunk");
  const chunks = new Map();
  const index = await unpack(indexNode.textContent);
  const form = document.querySelector(".filters");
  const list = document.querySelector(".list");
  const rows = list.querySelector(".rows");
  const detail = document.querySelector(".detail");
  const total = index.status.length;
  let visible = [];
  let selected = -1;

  function chunkOf(rollout) {
    let [low, high] = [0, index.starts.length - 1];
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (index.starts[middle] <= rollout) low = middle;
      else high = middle - 1;
    }
    return low;
  }

  async function read(rollout) {
    const number = chunkOf(rollout);
    if (!chunks.has(number)) chunks.set(number, unpack(chunkNodes[number].textContent));
    const content = await chunks.get(number);
    const [group, ...values] = content.rollouts[rollout - index.starts[number]];
    return Object.fromEntries([
      ...data.ofGroup.map((name, column) => [name, content.groups[group][column]]),
      ...data.ofRollout.map((name, column) => [name, values[column]]),
    ]);
  }

  function fill(name, column, labels) {
    const present = [...new Set(index[column])].sort((a, b) => a - b);
    form.elements[name].append(element("option", { value: "" }, "all"));
    for (const value of present) form.elements[name].append(element("option", { value }, labels ? labels[value] : value));
  }

  function filter() {
    const wanted = [...page.filters.map(([name]) => name), "status"]
      .map((name) => [index[name], form.elements[name].value])
      .filter(([, value]) => value !== "")
      .map(([column, value]) => [column, Number(value)]);
    visible = [];
    for (let rollout = 0; rollout < total; rollout++) {
      if (wanted.every(([column, value]) => column[rollout] === value)) visible.push(rollout);
    }
    const order = form.elements.order.value;
    if (order !== "given") {
      const sign = order === "best" ? -1 : 1;
      const last = Infinity * sign; // a rollout without a reward has failed: it comes last either way
      const key = (rollout) => sign * (index.reward[rollout] ?? last);
      visible.sort((a, b) => (key(a) === key(b) ? a - b : key(a) - key(b)));
    }
    form.elements.count.value = `${visible.length.toLocaleString("en")} replies`;
    selected = -1;
    list.removeAttribute("aria-activedescendant");
    list.scrollTop = 0;
    rows.style.height = `${visible.length * ROW_HEIGHT}px`;
    show();
  }

  function rowOf(position) {
    const rollout = visible[position];
    const status = index.statuses[index.status[rollout]];
    const row = element("div", {
      class: "row", role: "option", id: `row-${position}`, "aria-selected": String(position === selected),
      "aria-posinset": position + 1, "aria-setsize": visible.length, style: `top:${position * ROW_HEIGHT}px`,
    });
    const head = element("div");
    const reward = index.reward[rollout];
    head.append(
      element("span", { class: `status ${status}` }, status),
      element("span", {}, reward === null ? `no ${page.value}` : `${page.value} ${formatValue(reward)}`),
      element("span", { class: "step" }, page.where(index, rollout)),
    );
    const snippet = element("p", {}, "…");
    row.append(head, snippet);
    row.onclick = () => choose(position);
    read(rollout).then((content) => { snippet.textContent = content.prompt.slice(0, 160); });
    return row;
  }

  function show() {
    const first = Math.max(0, Math.floor(list.scrollTop / ROW_HEIGHT) - SPARE_ROWS);
    const end = Math.min(visible.length, Math.ceil((list.scrollTop + list.clientHeight) / ROW_HEIGHT) + SPARE_ROWS);
    rows.replaceChildren(...Array.from({ length: Math.max(0, end - first) }, (_, offset) => rowOf(first + offset)));
  }

  async function choose(position) {
    selected = position;
    const top = position * ROW_HEIGHT;
    if (top < list.scrollTop) list.scrollTop = top;
    else if (top + ROW_HEIGHT > list.scrollTop + list.clientHeight) list.scrollTop = top + ROW_HEIGHT - list.clientHeight;
    show();
    list.setAttribute("aria-activedescendant", `row-${position}`);
    const rollout = visible[position];
    const content = await read(rollout);
    if (visible[selected] === rollout) detail.replaceChildren(...describe(rollout, content));
  }

  function describe(rollout, content) {
    const status = index.statuses[index.status[rollout]];
    const verdict = element("p", { class: "verdict" });
    verdict.append(element("span", { class: `status ${status}` }, status));
    if (content.reason) verdict.append(` ${content.reason}`);
    const facts = element("dl", { class: "facts" });
    const fact = (name, value) => {
      if (value !== null && value !== undefined && value !== "") {
        facts.append(element("dt", {}, name), element("dd", {}, String(value)));
      }
    };
    for (const [name, value] of page.facts(index, rollout, content)) fact(name, value);
    return [
      verdict, element("h3", {}, "prompt"), element("pre", { class: "prompt" }, content.prompt),
      ...page.replies(content).flatMap(([name, text]) => [
        element("h3", {}, name), element("pre", { class: "reply" }, text),
      ]),
      facts,
    ];
  }

  for (const [name, labels] of page.filters) fill(name, name, labels);
  fill("status", "status", index.statuses);
  form.onchange = filter;
  form.onsubmit = (event) => event.preventDefault();
  list.onscroll = show;
  list.onkeydown = (event) => {
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: 8, PageUp: -8, Home: -visible.length, End: visible.length };
    if (!(event.key in moves) || !visible.length) return;
    event.preventDefault();
    choose(Math.min(visible.length - 1, Math.max(0, selected + moves[event.key])));
  };
  filter();
  document.documentElement.dataset.ready = "true";
}
