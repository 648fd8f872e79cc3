"""Language models: what is asked of them, the engines that answer, and what answers may cost."""
