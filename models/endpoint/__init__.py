"""Models behind an OpenAI-compatible HTTP endpoint (vLLM, Ollama and others): requests, answers, a captioner."""
