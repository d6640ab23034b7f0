// Replies of evaluations, by model and task.

browse({
  filters: [["model", data.models], ["task", data.tasks]],
  value: "score",
  where: (index, rollout) =>
    data.models.length > 1
      ? `${data.tasks[index.task[rollout]]}, ${data.models[index.model[rollout]]}`
      : data.tasks[index.task[rollout]],
  replies: (content) =>
    (content.turns ?? []).length
      ? content.turns.flatMap(([reply, answer]) => (answer ? [["reply", reply], ["answer", answer]] : [["reply", reply]]))
      : [["reply", content.text]],
  facts: (index, rollout, content) => [
    ["model", data.models[index.model[rollout]]],
    ["task", data.tasks[index.task[rollout]]],
    ["score", index.reward[rollout]],
    ["answer found", content.answer],
    ["right answer", content.gold],
    ["tokens", content.length],
    ["seconds", content.seconds],
    ["ended by", content.finish_reason],
    ["failure", content.failure],
    ["problem", `${content.uid}, reply ${content.sample + 1}`],
  ],
});
