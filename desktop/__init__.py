"""The window: the only folder with PySide6, qasync and pyqtgraph."""
