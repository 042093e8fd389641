"""A chat. Each piece of an answer is sent as {"delta": text}; the return value describes the last answer.

With `interactive` every answer is followed by {"end": {...}} (what is returned otherwise), and the next message of the
client is the next user turn. An empty message, or the client's leaving, ends the chat.
"""

from inferlet import Context, Generator, Model, PieError, Sampler, session


async def main(
    messages: tuple[dict, ...] = (),
    max_tokens: int = 512,
    temperature: float = 0.6,
    top_p: float = 0.95,
    seed: int | None = None,
    stop: tuple[str, ...] = (),
    model: str = "",
    interactive: bool = False,
) -> dict:
    with Context(Model.load(model)) as ctx:
        for message in messages:
            ctx.message(message["role"], message["content"])
        if not messages and not interactive:
            raise ValueError("there is nothing to answer: give messages, or interactive")
        answer = {"text": "", "finish_reason": "stop", "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
        wanted = bool(messages) and messages[-1]["role"] != "assistant"
        while True:
            if wanted or not interactive:
                generation = ctx.cue().generate(
                    Sampler.top_p(temperature, top_p), max_tokens=max_tokens, seed=seed, stop=stop
                )
                answer = await respond(ctx, generation)
            if not interactive:
                return answer
            if wanted:
                session.send({"end": answer})
            said = await next_message()
            if not said:
                return answer
            ctx.user(said)
            wanted = True


async def respond(ctx: Context, generation: Generator) -> dict:
    prompt_tokens = ctx.seq_len
    text = await generation.send(field="delta")
    reason = "stop" if generation.finish_reason == "stop" else "length"
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": generation.tokens_generated}
    return {"text": text, "finish_reason": reason, "usage": usage}


async def next_message() -> str:
    try:
        return await session.receive()
    except PieError as exc:
        if exc.code == "closed":
            return ""
        raise
