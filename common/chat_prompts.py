"""A request as a local model reads it: token ids, through the model's own chat template where it has one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from common.rollouts import Failure, Request

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Between messages for a model without a template.
_SEPARATOR = "\n\n"


def prompt_text(tokenizer: PreTrainedTokenizerBase, request: Request) -> tuple[str, bool]:
    """The text that the model reads, and whether the special tokens are in it already.

    A conversation that ends with the assistant's words is one that the model goes on with. A model without a chat
    template reads the contents, with an empty line between them.
    """
    if request.prompt is not None:
        return request.prompt, False
    if not tokenizer.chat_template:
        return _SEPARATOR.join(message.content for message in request.messages), False
    messages: Any = [{"role": item.role, "content": item.content} for item in request.messages]
    going_on = request.messages[-1].role == "assistant"
    options: Any = {"add_generation_prompt": not going_on, "continue_final_message": going_on}
    return str(tokenizer.apply_chat_template(messages, tokenize=False, **options)), True


def prompt_ids(tokenizer: PreTrainedTokenizerBase, request: Request, context: int | None) -> list[int] | Failure:
    """Token ids of a request, or why it has none: its template refuses it, or no token fits in the context after it.

    Args:
        context: tokens that the model can hold; None when it has no limit.
    """
    try:
        text, has_special = prompt_text(tokenizer, request)
    except Exception as error:  # templates are programs, and raise what they like
        return Failure("engine", f"the chat template refuses this conversation: {error}")
    found: Any = tokenizer(text, add_special_tokens=not has_special, verbose=False)["input_ids"]
    ids = list(found) or [token for token in (tokenizer.bos_token_id, tokenizer.eos_token_id) if token is not None][:1]
    if not ids:
        return Failure("engine", "an empty prompt, and the model has no token that begins a text")
    if context is not None and len(ids) >= context:
        return Failure(
            "too_long", f"the prompt has {len(ids):,} tokens; the model holds {context:,}, its answer included"
        )
    return ids
