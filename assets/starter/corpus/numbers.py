"""What the numbers mean: measures of speed and memory, by aspect."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

from corpus.dsl import parse_topics

TOPICS = parse_topics("""
= ttft *3
n: TTFT | time to first token | the time to first token | first token time | first-token time | the TTFT number | ttft | first token latency
what:
- TTFT means time to first token: the time from sending your message until the first token of the answer arrives, in milliseconds.
- The time to first token (TTFT) is how long you wait from sending the prompt to the first token of the answer. It is made of queueing and prefill.
short:
- TTFT is the wait until the first token.
good:
- Below 500 ms feels instant, and up to 2 seconds is fine. A long prompt or a big model makes TTFT longer.
improve:
- To lower the TTFT use a shorter prompt, a smaller model, or GPU offload. The prompt cache also helps: an unchanged beginning isn't prefilled again.
where:
- TTFT is shown in the first-token time card at the right of the window, and as ttft_ms in the generation.finished event.
why:
- TTFT tells how fast the model reacts. It is the wait that you feel before the text starts to appear.
simple:
- Think of a waiter: TTFT is the time from your order until the first bite is on the table.
= itl *3
n: ITL | inter-token latency | inter token latency | intertoken latency | the latency between tokens | the inter-token latency | itl | token latency | the latency plot
what:
- Inter-token latency (ITL) is the time between one token and the next while the answer is written, in milliseconds.
- ITL means inter-token latency: how many milliseconds pass between two tokens of an answer.
short:
- ITL is the time between two tokens.
good:
- An ITL under 50 ms reads smoothly, because that is 20 tokens per second. Over 200 ms the text feels slow.
improve:
- A smaller or more strongly quantized model, GPU offload, and fewer busy programs beside it lower the inter-token latency.
where:
- The inter-token latency has its own live plot at the right of the window. The finished event carries itl_p50_ms and itl_p99_ms.
why:
- ITL shows whether the text flows evenly. A spike in the plot is a token that came late, for example because the machine was busy.
simple:
- It is the rhythm of the text: a small ITL means that the words come quickly one after another.
= tps *3
n: tokens per second | tokens/s | tok/s | the tokens per second | TPS | generation speed | tokens a second | the speed in tokens per second | t/s | decode speed
what:
- Tokens per second is the speed of an answer: how many tokens the model writes in one second.
- Tokens per second (tok/s) tells how fast the model decodes. Ten tokens per second are about seven words per second.
short:
- It is how many tokens are written each second.
good:
- 10 tokens per second is about as fast as you read, and above 20 feels fast. Below 5 it gets tiring.
? is [3|5|8|10|15|20|25|40|60|100] [tok/s|tokens per second|t/s|tokens a second] [ok|good|slow|fast|enough|normal|bad|fine]
? [i get|i have|it does|my model does] [4|7|12|18|30|50|90] [tok/s|tokens per second|t/s], is that [ok|good|slow|fast|enough]
improve:
- For more tokens per second use a smaller model, a stronger quantization such as Q4_K_M, or put layers on the GPU with --gpu-layers. Also set the threads well.
where:
- Tokens per second is shown in a card and in a live plot at the right of the window, and as tokens_per_second in the finished event.
why:
- It tells how long an answer takes: an answer of 200 tokens needs 10 seconds at 20 tokens per second.
simple:
- It is like the speed of a typist, but counted in tokens instead of letters.
= kv *3
n: KV cache | the KV cache | the key-value cache | key value cache | kv | the kv use | KV memory | kv_used | the kv cache plot
what:
- The KV cache is the model's working memory: it keeps the keys and values of all tokens read so far, so that they need not be computed again.
- The KV cache stores the keys and values of the tokens in the context. Without it every new token would mean reading the whole text again.
short:
- The KV cache is the memory of the tokens already read.
good:
- As long as the KV cache is not full, all is well. When its use comes near 100 %, the context is nearly full and old turns will be dropped.
improve:
- The KV cache grows with the context and the number of slots: use a smaller --ctx or --parallel to make it smaller.
where:
- The use of the KV cache is plotted at the right of the window. In the stream, metrics.step carries kv_used and kv_total.
why:
- It makes decoding fast, but it needs memory: the longer the conversation, the more of the KV cache is used.
simple:
- It is like notes taken while reading: the model looks at its notes instead of reading the book again for every word.
= context *3
n: the context | context | context window | the context window | context size | context length | n_ctx | ctx | the context size
what:
- The context is all the text the model can see at once: system prompt, conversation and answer. It is measured in tokens.
- The context window is the number of tokens a model can look at together. My own context is 1,024 tokens.
short:
- The context is the text that the model can see at once.
good:
- 4,096 to 8,192 tokens are enough for most conversations. More context needs more memory for the KV cache.
improve:
- Set the context with --ctx, in tokens per slot, for example: tokenglass --ctx 4096.
where:
- The context card and the context plot at the right of the window show how much of the context is used.
why:
- What no longer fits into the context is forgotten: Tokenglass then drops the oldest turns, but never the system prompt, and says so.
simple:
- It is like a desk: only the pages that fit on it can be seen at the same time.
= quant *3
n: quantization | quantisation | quantizing | a quantized model | quantized models | quants | model quantization | a quant
what:
- Quantization stores the weights of a model with fewer bits, for example 4 or 8 instead of 16. The file gets smaller and faster, at a small loss of quality.
- Quantization means rounding a model's weights to fewer bits, so that it needs less memory and runs faster. The answers get slightly worse.
short:
- Quantization makes a model smaller by using fewer bits per weight.
good:
- Q4_K_M is a good choice for most people: small and still accurate. Q8_0 is nearly lossless, and below Q3 the quality drops clearly.
improve:
- You choose the quantization when you pick a GGUF file, for example one with Q4_K_M in its name. It can't be changed in the app.
where:
- The quantization is usually part of the file name, such as Q4_K_M or Q8_0, and it is shown in the model card of the window.
why:
- Thanks to quantization a big model fits into the memory of a normal computer: with 4 bits it needs about a quarter of the 16-bit size.
simple:
- It is like saving a photo with fewer colours: a smaller file that looks nearly the same.
= gguf *3
n: GGUF | a GGUF file | GGUF files | the GGUF format | gguf | a .gguf file | GGUF model
what:
- GGUF is the file format of models for llama.cpp. One file holds the weights, the tokenizer, the chat template and the metadata.
- A GGUF file is a complete model in one file: weights, tokenizer and settings. Tokenglass loads GGUF files.
short:
- GGUF is the model file format that Tokenglass loads.
good:
- A model with 1 to 8 billion parameters in Q4_K_M fits most computers. Its GGUF file is about 1 to 5 GB.
improve:
- To use a GGUF file, drag it onto the window, open it in the model switcher at the top left, or run: tokenglass models add FILE
where:
- GGUF files can be downloaded from model hubs, or with: tokenglass models pull REPO. Then they appear in the model switcher.
why:
- With GGUF you need only one file, and it can be mapped into memory, so it loads quickly.
simple:
- It is a box that holds everything a model needs in order to run.
= prefill *2
n: prefill | the prefill | prefilling | prompt processing | the prefill phase | prefill_ms | prefill time | prefill tokens
what:
- Prefill is the first phase of a generation: the model reads all tokens of the prompt and fills the KV cache, before it writes the first token.
short:
- Prefill is the reading of the prompt.
good:
- Prefill is much faster per token than decoding, often hundreds of tokens per second. A few hundred milliseconds in all are fine.
improve:
- A shorter prompt, an unchanged beginning that the prompt cache can reuse, or a GPU makes prefill shorter.
where:
- The time is prefill_ms in the timings of generation.finished, and metrics.step shows prefill_tokens for each step.
why:
- Prefill makes up most of the time to first token: the longer the prompt, the longer you wait.
simple:
- It is like reading the question before you begin to answer.
= decode *2
n: decode | decoding | the decode phase | decoding tokens | decode_ms | the decode step
what:
- Decoding is the second phase of a generation: the model writes the answer token by token, one in each step.
short:
- Decoding is the writing of the answer, token by token.
good:
- Decoding at 10 tokens per second or more is pleasant to read. It is limited mostly by memory speed.
improve:
- Decoding gets faster with a smaller or more quantized model, with faster memory, or with GPU offload.
where:
- The time is decode_ms in the timings of generation.finished, and metrics.step carries decode_tokens and decode_ms for each step.
why:
- Decoding takes most of the time of a long answer, because every token needs a full pass through the model.
simple:
- It is like speaking: one word after another, each one after thinking of all before.
= batch *2
n: batch | a batch | the batch | batch size | batch_size | the batch size | batching | batches
what:
- A batch is the set of tokens that the engine computes in one step. The batch size tells how many generations share that step.
short:
- The batch size is the number of generations in one step.
good:
- With one user the batch size is 1. Four generations at once give a batch size of 4, and more tokens per second in total.
improve:
- The batch grows when several generations run at once. How many may do so is set with --parallel.
where:
- The batch size is the field batch_size in every metrics.step event.
why:
- In a batch the weights are read only once for all generations, so several answers together cost little more than one.
simple:
- It is like a bus: four people in one bus need less fuel than four cars.
= contbatch
n: continuous batching | continous batching | the continuous batching | parallel generations | several generations at once
what:
- Continuous batching means that generations join and leave the running batch at any step, so that nobody waits for the others to finish.
short:
- Generations can join the batch at any moment.
good:
- It is always on. The number of slots, set with --parallel, is how many generations can run at once.
improve:
- Use --parallel N to set how many generations may share a batch.
where:
- You see it in metrics.step: batch_size rises and falls as generations start and finish.
why:
- It keeps the machine busy and lets several clients get their tokens at the same time.
simple:
- It is like an escalator: people step on and off while it keeps moving.
= slot *2
n: slot | a slot | slots | the slots | engine slots | a slot in the engine | parallel slots
what:
- A slot is a place in the engine for one running generation. It has its own part of the KV cache, and the number of slots is set with --parallel.
short:
- A slot is a place for one running generation.
good:
- One to four slots are enough for one person. Every slot needs memory for its own context.
improve:
- Set the number of slots with --parallel N, for example: tokenglass serve --parallel 4
where:
- The slots are shown in the status line of the window and in the snapshot of the stream.
why:
- When all slots are busy, further generations wait in the queue. More slots mean more answers at once, but more memory.
simple:
- It is like a seat at a table: each generation needs one while it runs.
= promptcache *2
n: prompt cache | the prompt cache | prompt caching | prefix cache | the prefix cache | cached tokens | cached_tokens | prefix caching
what:
- The prompt cache keeps the KV cache of earlier turns. If a new prompt begins the same way, only its new part is prefilled; cached_tokens tells how many tokens were reused.
short:
- The prompt cache reuses the part of the prompt that was already read.
good:
- In the second turn of a conversation most tokens should be cached. Then prefill takes only a few milliseconds.
improve:
- It works by itself. Keep the beginning of the prompt unchanged, so that the longest common prefix can be reused.
where:
- The number is cached_tokens, in generation.started and in the usage of generation.finished.
why:
- It makes the second turn of a conversation start much faster, because the old text isn't read again.
simple:
- It is like a bookmark: you go on reading where you stopped, not from page one.
= prompttokens
n: prompt tokens | prompt_tokens | completion tokens | completion_tokens | usage | token usage | the usage field
what:
- prompt_tokens counts the tokens of the input and completion_tokens those of the answer. Both stand in the usage of generation.finished.
short:
- They count the tokens of the question and of the answer.
good:
- There is no right value: both together must fit into the context.
improve:
- Shorter messages and max_tokens keep these numbers low.
where:
- They are in the usage field of the generation.finished event.
why:
- They show how much of the context a turn takes.
simple:
- One counts what was read, the other what was written.
= percentile
n: p50 | p99 | itl_p99_ms | itl_p50_ms | percentiles | the 99th percentile | median latency | the p99 value | p50 and p99
what:
- p50 is the median: half of the values are below it. p99 is the value that 99 of 100 stay below, so it shows the slow outliers.
short:
- p50 is the typical value, p99 the slow outlier.
good:
- A p99 near the p50 means an even flow. If p99 is many times higher, some tokens come late.
improve:
- A lower p99 needs a calm machine: close busy programs and leave a core free for the window.
where:
- The finished event carries itl_p50_ms and itl_p99_ms for the inter-token latency.
why:
- An average hides the stalls, while p99 shows them.
simple:
- Of 100 tokens, p50 is the one in the middle and p99 nearly the slowest.
= queue
n: queue_ms | the queue | queueing | queue time | a queued generation | waiting generations | the waiting number
what:
- The queue holds generations that wait for a free slot. queue_ms is how long one waited before its prefill began.
short:
- It is the wait for a free slot.
good:
- It should be near 0 ms. If it is long, all slots are busy.
improve:
- Use more slots with --parallel, or cancel generations that you don't need.
where:
- queue_ms is in the timings of generation.finished, and metrics.step shows how many are waiting.
why:
- The queue time is part of the time to first token.
simple:
- It is like standing in line before the counter.
= cpu
n: CPU use | the CPU plot | cpu load | memory use | the RAM plot | ram usage | metrics.system | the cpu and memory plot | system metrics
what:
- The system plot shows how much CPU and memory your machine is using, and the GPU where there is one. It comes from the metrics.system event.
short:
- It shows how busy your machine is.
good:
- While decoding, the CPU is near its full load on the threads in use. Memory should stay below what your machine has.
improve:
- Use fewer threads with --threads, or a smaller model, to lower the load.
where:
- It is plotted at the right of the window, and sent as metrics.system in the stream.
why:
- If memory runs out the machine begins to swap and everything gets very slow.
simple:
- It is like the rev counter of a car.
= parameters *2
n: parameters | model parameters | the number of parameters | 7B | what 7B means | weights | the weights | model weights | model size | billion parameters | 8b
what:
- Parameters, or weights, are the learned numbers inside a model. 7B means seven billion of them; I have only about three million.
short:
- Parameters are the learned numbers of a model.
good:
- For a computer with 8 GB of memory take a model of 1 to 4 billion parameters, and with 16 GB one of 7 or 8 billion, in Q4_K_M.
improve:
- The number of parameters is fixed in the file. Load another GGUF to get more.
where:
- The model card at the right of the window shows the loaded model and its size.
why:
- More parameters mean better answers, but also more memory and fewer tokens per second.
simple:
- They are like the connections in a brain: more of them can hold more knowledge.
= vram
n: VRAM | GPU memory | video memory | how much VRAM is needed | graphics memory
what:
- VRAM is the memory of the graphics card. The layers of the model that run on the GPU must fit into it.
short:
- VRAM is the memory of the GPU.
good:
- 8 GB of VRAM hold a 7B model in Q4_K_M with some context. 4 GB are enough for a 3B model.
improve:
- If VRAM runs out, put fewer layers on the GPU with --gpu-layers, use a smaller context, or a smaller model.
where:
- Where there is a GPU, its memory and load appear in the system plot and in metrics.system.
why:
- The more of the model fits into VRAM, the faster the answer comes.
simple:
- It is the workbench of the graphics card.
""")
