// Replies of training runs: rollouts by step, and looks at held-out problems.

browse({
  filters: [["run", data.runs], ["place", data.places], ["step", null]],
  value: "reward",
  where: (index, rollout) => `step ${index.step[rollout]}${index.place[rollout] ? ", held out" : ""}`,
  replies: (content) => [["reply", content.text]],
  facts: (index, rollout, content) => [
    ["run", data.runs.length > 1 ? data.runs[index.run[rollout]] : null],
    ["from", `${data.places[index.place[rollout]]}, step ${index.step[rollout]}`],
    ["reward", index.reward[rollout]],
    ...Object.entries(content.parts ?? {}).map(([name, value]) => [`reward part ${name}`, formatValue(value)]),
    ["advantage", content.advantage],
    ["score", content.score],
    ["answer found", content.answer],
    ["right answer", content.gold],
    ["tokens", content.length],
    ["ended by", content.finish_reason],
    ["failure", content.failure],
    ["problem", `${content.uid}, reply ${content.sample + 1}`],
  ],
});
