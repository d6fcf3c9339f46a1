"""`ChatSession`: a picture, its regions, a conversation about them: the only loop that talks to the model."""

from rgpt.chat.chat_session import ChatSession
from rgpt.chat.pieces import Piece, Token, Usage
from rgpt.chat.session import Turn

__all__ = ["ChatSession", "Piece", "Token", "Turn", "Usage"]
