"""The Gradio app: draw regions on a picture and talk about them. Run it with `python -m app.main`."""
