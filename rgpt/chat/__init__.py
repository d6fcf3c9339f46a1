"""`ChatSession`: a picture, its regions, a conversation about them: the only loop that talks to the model."""

from rgpt.chat.session import ChatSession, Turn, Usage

__all__ = ["ChatSession", "Turn", "Usage"]
