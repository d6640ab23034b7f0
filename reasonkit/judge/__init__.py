"""The judge: a server that scores replies, for trainers that cannot or should not do it themselves.

    uvicorn process ×N   gate -> app -> bench -> verifiers, sandbox, LLM judge
                         |       |      └ one verdict for equal questions, in flight and for a while after
                         |       └ our own API, RL Verifier's (`legacy`), SandboxFusion's (`fusion`)
                         └ request ids, tokens, size limits, back-pressure, access log, metrics

`server` starts and supervises the processes; `settings` says where each of its options may come from. Verdicts are
`reasonkit.verifiers`' business: nothing here decides what is right, but for the two foreign APIs' own rules.
"""

from reasonkit.judge.settings import JudgeModel, Settings

__all__ = ["JudgeModel", "Settings"]
