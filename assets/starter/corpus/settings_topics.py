"""Sampling and other settings of a generation, by aspect."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

from corpus.dsl import parse_topics

TOPICS = parse_topics("""
= temperature *3
n: temperature | the temperature | temp | temperature setting | the temperature setting | the temperature slider | sampling temperature
what:
- Temperature sets how random the choice of tokens is. At 0 the model always takes the most likely token; higher values give more varied text.
- The temperature controls how bold the model is: low values give safe and repeatable answers, high values more surprising ones.
short:
- Temperature sets how random the answers are.
good:
- 0.7 is a good start for chatting. Use 0 to 0.3 for facts and code, and about 1.0 for stories.
improve:
- Set the temperature in the settings, or in a script with sampling: {"temperature": 0.7} in the generate command.
up:
- With a higher temperature the text gets more creative, but also more wrong. Above 1.5 it often turns into nonsense.
where:
- You find the temperature in the settings, and scripts pass it in the sampling field of generate.
why:
- It decides between dull but safe and lively but risky text.
simple:
- It is like spice in a soup: a little makes it interesting, too much spoils it.
= topp *2
n: top-p | top p | top_p | nucleus sampling | topp | the top-p setting | Top-P
what:
- Top-p keeps only the most likely tokens whose probabilities add up to p, and samples from those. With top-p 0.9 the unlikely last 10 % are cut off.
short:
- Top-p samples only from the most likely tokens that add up to p.
good:
- 0.9 or 0.95 is a good value for top-p. 1.0 turns it off.
improve:
- Set it in the settings or with sampling: {"top_p": 0.9} in the generate command.
up:
- A higher top-p lets in more unlikely tokens, so the text is more varied. A lower one makes it safer.
where:
- You find it in the settings, next to the temperature.
why:
- It removes the long tail of silly tokens but keeps the good ones.
simple:
- It is like choosing only from the dishes that most guests order.
= topk *2
n: top-k | top k | top_k | topk | the top-k setting | Top-K
what:
- Top-k lets the model choose only among the k most likely tokens. With top-k 40 all but the best 40 are left out.
short:
- Top-k samples only from the k best tokens.
good:
- 40 is a common value for top-k. 1 is the same as greedy decoding, and 0 turns it off.
improve:
- Set it in the settings or with sampling: {"top_k": 40} in the generate command.
up:
- A higher top-k allows more different tokens, so the text gets more varied. A lower top-k makes it more predictable.
where:
- You find it in the settings, next to the temperature.
why:
- It keeps the model from picking very unlikely tokens.
simple:
- It is like a short list: only the k best candidates are invited.
= minp *2
n: min-p | min p | min_p | minp | the min-p setting | Min-P
what:
- Min-p drops all tokens whose probability is less than p times that of the best token. With min-p 0.05 a token needs at least 5 % of the best one's probability.
short:
- Min-p drops tokens that are much less likely than the best one.
good:
- 0.05 is a good value for min-p. 0 turns it off.
improve:
- Set it in the settings or with sampling: {"min_p": 0.05} in the generate command.
up:
- A higher min-p cuts more tokens away, so the text gets safer. A lower one lets more variety in.
where:
- You find it in the settings, next to the temperature.
why:
- It adapts by itself: where the model is sure few tokens stay, where it is unsure many do.
simple:
- It is like a contest where only those close to the winner may stay.
= penalty *2
n: repeat penalty | repeat_penalty | repetition penalty | the repeat penalty | repetition | a repeat penalty
what:
- The repeat penalty makes tokens that were used recently less likely, so that the model doesn't repeat itself.
short:
- The repeat penalty keeps the model from repeating itself.
good:
- 1.1 is a good value. 1.0 turns it off, and above 1.3 the text gets strange.
improve:
- Set it in the settings or with sampling: {"repeat_penalty": 1.1} in the generate command.
up:
- A higher repeat penalty avoids repeated words more strongly. Too high, it also forbids words that the text needs.
where:
- You find it in the settings, with the other sampling values.
why:
- Small models tend to fall into loops, and the repeat penalty breaks them.
simple:
- It is like a friend who reminds you that you already said that.
= prespenalty
n: presence penalty | presence_penalty | frequency penalty | frequency_penalty | the frequency penalty | the presence penalty
what:
- The presence penalty makes every token that was already used less likely; the frequency penalty grows with how often it was used.
short:
- Both make used tokens less likely.
good:
- 0 is the usual value and means off. Small values such as 0.2 to 0.5 make the text more varied.
improve:
- Set them with sampling: {"presence_penalty": 0.3} in the generate command.
up:
- Higher values push the model to new words and new subjects.
where:
- They are part of the sampling field of generate.
why:
- They help against repetition.
simple:
- They say: use another word this time.
= seed *2
n: seed | the seed | random seed | a seed | the random seed | sampling seed
what:
- The seed starts the random number generator of sampling. The same seed, prompt and settings give the same answer again.
short:
- The seed makes random answers repeatable.
good:
- Any number will do, for example 42. Leave it out to get a new random answer each time.
improve:
- Set it with sampling: {"seed": 42} in the generate command, or in the settings.
up:
- A bigger seed isn't better: it is only another random start.
where:
- You find it in the settings, with the other sampling values.
why:
- With a fixed seed you can repeat an experiment and compare settings.
simple:
- It is like the number of a shuffled deck: the same number gives the same order of cards.
= sampling *2
n: sampling | token sampling | the sampler | sampler | sampling settings | the sampling settings | a sampler chain | the sampler chain
what:
- Sampling is the choice of the next token from the model's probabilities. Temperature, top-k, top-p and min-p shape that choice.
short:
- Sampling is how the next token is chosen.
good:
- A good start is temperature 0.7, top-k 40, top-p 0.95 and min-p 0.05.
improve:
- Change the sampling in the settings, or give a sampling object in the generate command. With update it changes even while a generation runs.
where:
- The sampling values are in the settings. Each generation has its own sampler chain.
why:
- The same model can sound dull or lively, depending on the sampling.
simple:
- It is like rolling a loaded die for each next token.
= greedy *2
n: greedy | greedy decoding | greedy sampling | temperature 0 | temperature zero
what:
- Greedy decoding always takes the most likely token. You get it with temperature 0, and the same prompt then gives the same answer.
short:
- Greedy means always taking the most likely token.
good:
- Greedy is good for facts, sums and code. For stories a temperature near 0.7 is nicer.
improve:
- Set the temperature to 0 to decode greedily.
where:
- Set the temperature in the settings to 0.
why:
- It makes answers repeatable, but they may sound dull or run into loops.
simple:
- It is like always taking the first item of the menu.
= stop *2
n: stop strings | a stop string | stop string | stop sequences | the stop field | stop words | stop sequence | stopstrings
what:
- Stop strings end the answer: as soon as the model writes one of them, the generation stops, and the string itself isn't shown.
short:
- A stop string ends the answer when it appears.
good:
- Useful stop strings are a blank line or the name of the next speaker. Often none is needed.
improve:
- Give them in the generate command, for example "stop": ["END"].
where:
- They are the stop field of the generate command.
why:
- They keep an answer from going on after the part that you need.
simple:
- It is like a code word that tells the writer to put the pen down.
= maxtokens *2
n: max_tokens | max tokens | the max_tokens setting | maximum tokens | the token limit | answer length limit | max_token
what:
- max_tokens limits the length of an answer in tokens. When it is reached, the finish reason is length.
short:
- It is the greatest length of an answer, in tokens.
good:
- 256 to 1,024 tokens suit most answers. Left out, the model goes on until it stops by itself or the context is full.
improve:
- Give max_tokens in the generate command, or set it in the settings.
up:
- With a higher limit answers can be longer. They still end when the model is done.
where:
- It is a field of the generate command and a value in the settings.
why:
- It keeps a model from writing for ever.
simple:
- It is like a limit of pages for an essay.
= token *3
n: token | a token | tokens | what tokens are | the tokens | the word token
what:
- A token is a piece of text, about three quarters of a word in English. Models read and write text token by token.
- Tokens are the small pieces into which text is cut: a short word, a part of a word, a digit or a sign.
short:
- A token is a small piece of text.
good:
- A usual answer has 50 to 500 tokens. 100 tokens are about 75 English words.
where:
- The cards at the right count tokens, and each generation.delta event carries the tokens with their ids.
why:
- Speed, context and limits are all counted in tokens.
simple:
- Tokens are like the bricks from which a text is built.
= tokenizer *2
n: tokenizer | the tokenizer | tokenization | a tokenizer | tokenizing
what:
- A tokenizer cuts text into tokens and joins tokens to text again. Each model brings its own in the GGUF file; mine knows 2,048 pieces.
short:
- A tokenizer turns text into tokens and back.
good:
- Big models have tokenizers with 32,000 to 200,000 pieces.
where:
- It is stored in the GGUF file of the model, so you need no extra file.
why:
- The model knows only numbers, so text must be turned into token ids first.
simple:
- It is like scissors and glue for text.
= logprobs *2
n: logprobs | logprob | log probabilities | log probs | token probabilities | the logprobs | token probability
what:
- Logprobs are the logarithms of the token probabilities. A logprob of 0 means certain; the more negative it is, the less likely the token was.
short:
- Logprobs tell how likely each token was.
good:
- Values near 0 mean the model was sure. Below -3 the token had less than 5 % probability.
improve:
- Ask for them with logprobs in the generate command. Then each token carries logprob and top.
where:
- In the stream, each token of generation.delta has logprob and top when you ask for them.
why:
- They show where the model was unsure.
simple:
- They are the model's own marks for how sure it was.
= gpu *2
n: GPU offload | gpu layers | GPU layers | --gpu-layers | gpu offloading | offloading to the GPU | layers on the GPU | gpu acceleration
what:
- GPU offload puts layers of the model on the graphics card, which is much faster than the CPU. Set it with --gpu-layers N or auto.
short:
- It runs a part of the model on the graphics card.
good:
- auto is a good value: it puts as many layers on the GPU as fit. More layers on the GPU mean more speed.
improve:
- Start with: tokenglass --gpu-layers auto. If memory runs out, use a smaller number.
up:
- More layers on the GPU give more tokens per second, as long as they fit into its memory.
where:
- It is the option --gpu-layers and a value in the settings. The system plot shows the GPU's load and memory.
why:
- A GPU can read weights much faster than a CPU, so tokens come much faster.
simple:
- It is like giving the heavy boxes to the stronger helper.
= threads *2
n: threads | the threads setting | --threads | number of threads | cpu threads | thread count | the number of threads
what:
- Threads are how many CPU cores work on the model at once. Set them with --threads N; the default leaves a core for the window.
short:
- Threads set how many CPU cores are used.
good:
- Use the number of real cores, less one for the window. More threads than cores make it slower.
improve:
- Set it when you start: tokenglass --threads 4
up:
- More threads help only up to the number of real cores. Beyond that, decoding gets slower.
where:
- It is the option --threads and a value in the settings.
why:
- With too few threads the CPU is not used well, with too many they wait for each other.
simple:
- It is like cooks in a kitchen: too many get in each other's way.
= ctxopt
n: --ctx | the --ctx option | ctx option
what:
- --ctx N sets the context in tokens per slot, for example: tokenglass --ctx 4096
short:
- It sets the tokens per slot.
good:
- 4096 is a good start. A larger context needs more memory.
where:
- It is an option of tokenglass and of tokenglass serve.
= parallelopt
n: --parallel | the --parallel option | the parallel setting
what:
- --parallel N sets the number of slots, that is how many generations can run at the same time.
short:
- It sets the number of slots.
good:
- 1 to 4 is right for one person.
where:
- It is an option of tokenglass and of tokenglass serve.
= sysprompt *2
n: system prompt | a system prompt | the system prompt | system message | system instructions | a system message
what:
- The system prompt is a first message that tells the model how to behave, for example to answer briefly. It is never dropped from the context.
short:
- It tells the model how to behave.
good:
- Keep it short and clear, for example: You are a helpful assistant. Answer briefly.
improve:
- Send it as the first message with the role system in the generate command.
where:
- It is the first message of a conversation, with the role system.
why:
- It sets the tone for the whole conversation.
simple:
- It is like the instructions an actor gets before the play.
= template *2
n: chat template | the chat template | chat templates | prompt template | a chat template
what:
- The chat template turns messages into the exact text a model was trained on, with marks for system, user and assistant. It comes in the GGUF file.
short:
- It formats messages for the model.
good:
- You need not choose one: Tokenglass uses the template of the model.
where:
- It is stored in the metadata of the GGUF file.
why:
- With a wrong template a model answers badly or doesn't stop.
simple:
- It is like the form on which a letter must be written.
= toolcalls *2
n: tool calls | a tool call | tools | function calling | tool calling | tool use | function calls
what:
- With tool calls a model can ask a program for help: it names a tool and its arguments, a script runs it, and sends back the result with tool_result.
short:
- A tool call lets the model use a program.
good:
- Use few tools with clear names. I know two demo tools: clock and calculator.
improve:
- Give a tools list in the generate command. A call arrives as a generation.tool_call event, and you answer it with tool_result.
where:
- In the stream they appear as generation.tool_call, and the finish reason is tool_calls.
why:
- With tools a model can do what it can't do alone, such as exact sums or telling the time.
simple:
- It is like asking a colleague with a calculator.
= jsonmode
n: JSON mode | response_format | json schema | structured output | json output mode | grammar | a grammar | GBNF grammar | grammars
what:
- A grammar or a response_format forces the answer into a form, such as valid JSON. Tokens that don't fit are not allowed.
short:
- It forces the answer into a fixed form.
good:
- Use json_object for any JSON, or json_schema when you need certain fields.
improve:
- Give response_format with json_object or json_schema, or a grammar, in the generate command.
where:
- response_format and grammar are fields of the generate command.
why:
- Programs can read such answers safely.
simple:
- It is like a form with fixed fields to fill in.
= logitbias
n: logit bias | logit_bias | the logit_bias field | token bias
what:
- Logit bias makes chosen tokens more or less likely by adding a number to their scores before sampling.
short:
- It makes single tokens more or less likely.
good:
- Values from -5 to 5 are enough; -100 forbids a token.
where:
- It is logit_bias in the sampling field of generate.
= finish *2
n: finish reason | finish_reason | the finish reason | the finish reasons | finish reasons
what:
- The finish reason tells why an answer ended: stop, length, context_full, tool_calls, cancelled or error.
short:
- It tells why the answer ended.
good:
- stop is the normal one: the model was done. length means that max_tokens was reached.
where:
- It is finish_reason in the generation.finished event.
why:
- It shows whether an answer is complete or was cut.
= llm *2
n: LLM | a language model | large language model | a large language model | language models | llms | an LLM | a local model | local llm
what:
- A language model is a program that has learned from text to predict the next token. By doing so again and again it writes answers.
short:
- It predicts the next token, again and again.
good:
- A model of 3 to 8 billion parameters in Q4_K_M is good for most computers.
improve:
- Load one as a GGUF file with the model switcher at the top left, or drag the file onto the window.
why:
- On your own machine it is private, works offline and costs nothing per token.
simple:
- It is like a very good guesser of the next word.
= llamacpp
n: llama.cpp | llama cpp | llamacpp | the llama.cpp engine | llama-cpp-python | the engine of tokenglass
what:
- llama.cpp is the engine that runs the model in Tokenglass. It reads GGUF files and works on CPU and GPU.
short:
- It is the engine that computes the tokens.
good:
- Nothing to choose: Tokenglass brings it along.
where:
- It runs in the worker, a child process of the app.
why:
- It is fast on normal computers and can use a GPU where there is one.
= inference
n: inference | model inference | local inference | running inference
what:
- Inference means running a trained model to get an answer, in contrast to training it. It consists of prefill and decoding.
short:
- Inference is running a model.
good:
- More than 10 tokens per second is comfortable.
why:
- With local inference your text never leaves your machine.
= hallucination
n: hallucination | hallucinations | a hallucination | hallucinating | hallucinate | when a model hallucinates
what:
- A hallucination is something a model makes up but states as a fact. Small models do it more often than big ones.
short:
- It is a made-up statement that sounds true.
good:
- Check important facts elsewhere, use a low temperature and a bigger model.
why:
- Models predict likely text; they don't look facts up.
= embedding
n: embedding | embeddings | an embedding | text embeddings
what:
- An embedding is a list of numbers that stands for the meaning of a text. Texts with a similar meaning have similar numbers.
short:
- It is a text turned into numbers.
where:
- The address /v1/embeddings is meant for embeddings.
= streaming
n: streaming | token streaming | streamed answers | a token stream
what:
- Streaming means that each token is sent as soon as it is there, not only when the answer is complete. Tokenglass streams to the window and to every script.
short:
- Tokens are sent as soon as they exist.
why:
- You can read along, stop early, and watch the speed.
= websocket *2
n: WebSocket | a websocket | web socket | websockets | the WebSocket stream | the live stream | the live websocket
what:
- A WebSocket is a lasting connection over which both sides send messages. Tokenglass sends its events over ws://127.0.0.1:7317/v1/live as JSON.
short:
- It is the connection that carries the live events.
improve:
- Connect to ws://127.0.0.1:7317/v1/live with the header Authorization: Bearer and your token.
where:
- The address is shown in the status line at the bottom of the window; a click copies it.
why:
- With it any local script sees the same tokens as the window.
= localhost
n: localhost | 127.0.0.1 | loopback | the loopback address | the address 127.0.0.1
what:
- localhost, or 127.0.0.1, is your own machine. Tokenglass listens only there, so no other computer can connect.
short:
- It means your own machine.
why:
- It keeps the stream private.
""")
