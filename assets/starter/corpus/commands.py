"""Commands, options, files, and the live stream of Tokenglass."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

from corpus.dsl import parse_topics

TOPICS = parse_topics("""
= start *2
? how [do|can] i [start|open|launch|run] [tokenglass|the app|the window|this app]
? [what is the command to start tokenglass|how to start tokenglass|start tokenglass|which command opens the window|what does the command tokenglass do|how do i open the window from the terminal|what command do i type|run tokenglass from the terminal]
- Type `tokenglass` in a terminal: it opens the window. Without a display use `tokenglass serve`.
= serve *3
n: tokenglass serve | the serve command | serve | serve mode | `tokenglass serve` | the command serve
what:
- `tokenglass serve` runs the app without a window. It prints one line of JSON with the address when it accepts connections, and scripts can then connect.
short:
- It runs the app without a window.
why:
- It is meant for servers and machines without a display: the stream and the API are the same as with the window.
improve:
- Type: tokenglass serve --port 7317
? how [do|can] i [run|start|use] [tokenglass|it|the server|the app] without [a window|a display|a gui|the window|a screen]
? [run it on a machine without a monitor|does it work without a monitor|i have no screen|use it over ssh|can it run on a server without display|start it without the gui|only the server please, no window]
? [is there a headless mode|headless|run it on a server|can i run it headless|start the server|how do i start the server|run as a server|no display, what now]
= chatcmd *3
n: tokenglass chat | the chat command | `tokenglass chat` | the command chat
what:
- `tokenglass chat` streams an answer to the terminal, for example: tokenglass chat "tell me a joke". Without a prompt it is interactive.
short:
- It chats in the terminal.
why:
- It is handy when you like the terminal or want an answer inside a shell script.
improve:
- Type: tokenglass chat "What is TTFT?"
? how [do|can] i chat [in the terminal|from the terminal|on the command line|in a shell|without the window]
? [talk to it in the shell|how do i talk to the model in a terminal|which command chats in the shell|command for chatting|ask a question in the shell|can i talk to it without the window]
? [is there a terminal chat|chat in terminal|can i use it in the terminal|ask a question from the command line|can i chat from the command line]
= watch *3
n: tokenglass watch | the watch command | `tokenglass watch` | the command watch
what:
- `tokenglass watch` follows every generation and metric of a running app in the terminal.
short:
- It shows all generations and metrics in the terminal.
why:
- With it you see what scripts and the window are doing, live, in a terminal.
improve:
- Start the app, then type in another terminal: tokenglass watch
? how [do|can] i [follow|watch|monitor|see] [generations|all generations|the tokens|the metrics|the stream] in the terminal
? [which command shows all generations|see everything that is generated|how do i see all tokens in a terminal|follow all generations on the command line|show me live what is generated, in the shell]
? [monitor in terminal|which command follows the metrics|how to watch the metrics]
= models *3
n: tokenglass models | the models command | `tokenglass models` | the command models | the model library
what:
- `tokenglass models` manages the model library: `list` shows the models, `add FILE` adds one, `remove ID` removes one, and `pull REPO` downloads one.
short:
- It lists, adds, removes and pulls models.
improve:
- Type: tokenglass models list
? how [do|can] i [list|see|remove|delete|show] [my models|the models|a model|installed models|all models]
? [which models do i have|list models|remove a model|show my models|what models are installed|delete a model]
= bench *3
n: tokenglass bench | the bench command | `tokenglass bench` | the benchmark | the command bench
what:
- `tokenglass bench` runs the bare engine loop and the whole app on the same model and prints the difference, so you see what the app itself costs.
short:
- It measures what the app costs over the bare engine.
why:
- It proves that the window and the stream hardly slow the model down.
improve:
- Type: tokenglass bench, or tokenglass bench --json for a script.
? how [do|can] i [measure the speed|benchmark|test the speed|run a benchmark|measure performance]
? [benchmark|is there a benchmark|how fast is my machine|how much does the app slow it down|what is the overhead of tokenglass|speed test|run a speed test]
= selftest *3
n: tokenglass selftest | the selftest command | `tokenglass selftest` | the self test | the command selftest | selftest
what:
- `tokenglass selftest` starts everything, streams 20 tokens through the WebSocket, draws the plots once, and exits with 0 if all is well.
short:
- It checks that everything works.
improve:
- Type: tokenglass selftest
? how [do|can] i [check|test|verify] [that tokenglass works|the installation|if everything works|my installation]
? [how do i know that it works|is everything ok with my setup|how can i be sure that it is installed right|is there a quick check|test my setup|does my install work]
? [is my installation ok|does everything work|check the installation]
= allcommands *3
? [what|which] commands [are there|does tokenglass have|exist|can i use|are available]
? [list the commands|list all commands|show me the commands|command line commands|tokenglass commands|what are the commands of tokenglass|give me a list of the commands|commands|all terminal commands|what are the subcommands|help with the command line|cli commands]
- The commands are:\\n\\n- `tokenglass`: the window\\n- `tokenglass serve`: without a window\\n- `tokenglass chat`: chat in the terminal\\n- `tokenglass watch`: follow everything\\n- `tokenglass models`: the model library\\n- `tokenglass bench`: measure the cost\\n- `tokenglass selftest`: check everything
= options *2
? [what|which] [options|flags|arguments|parameters] [are there|does tokenglass have|does serve have|can i use|exist]
? [list the options|show all options|command line options|tokenglass options|what are the options of tokenglass serve|options|flags]
- The main options are --port, --host, --model, --token, --ctx, --parallel, --threads, --gpu-layers, --allow-origin, --home and --log-level.
= port *3
n: the port | the default port | port 7317 | --port | the port number | the port of tokenglass | 7317
what:
- The default port is 7317. If it is taken, the next free one is used; choose another with --port N, where 0 means any free port.
short:
- The default port is 7317.
improve:
- Start with --port, for example: tokenglass --port 8000
where:
- The address with the port is shown in the status line at the bottom of the window.
what:
? [what|which] port does [tokenglass|it|the server|the app] [use|listen on|run on]
? [default port|the port is taken|what if the port is in use|port already in use|which port|on which port is the server|what is the standard port]
improve:
? [how do i change the port|set another port|how can i use another port|use port 8000]
= address *4
? what is the [address|url|websocket address|websocket url|address of the stream|address of the websocket|endpoint|server address|live address|live endpoint]
? [where do scripts connect|what address do i connect to|where can i connect my script|on which address does tokenglass listen|which address does the stream have|websocket url please|what is the ws address|address|ws url|how do i reach the server|where is the live stream|which url do i use for the websocket|what do i connect to]
- The address of the live stream is ws://127.0.0.1:7317/v1/live. A click on it in the status line copies it.
= authtoken *3
n: the token for the server | the access token | the auth token | the bearer token | the secret token | --token | the api token | the connection token
what:
- The access token is a secret that every client must send: Authorization: Bearer and the token. It is made fresh and kept in a file that only you can read.
short:
- It is the secret with which clients connect.
improve:
- Click the token in the status line to copy it, or read it from server.json. With --token you can set your own.
where:
- A click on the token in the status line copies it, and it stands in server.json.
why:
- The token makes sure that only your own programs can connect.
what:
? [why do i get 401|what does error 401 mean|i get unauthorized|my script is refused with 401|how do i authenticate|401|connection refused with 401]
improve:
? [where do i get the token|where is my token|how do i get the token|how do i copy the token|where is the access token|how can i copy the token]
= webpage *2
? can a [web page|website|web site|browser page] [connect|read my chats|get in|access tokenglass|use the stream|connect to tokenglass]
? [what does error 403 mean|why is my browser refused|why do i get 403|can websites read my tokens|what is --allow-origin|what does allow-origin do|how do i allow my web page|how do i connect from a browser|is it safe from web pages|can i use the stream in a browser|use it from javascript|allow an origin]
- No web page gets in by itself: the server checks Host, Origin and token. To let one in, start with --allow-origin ORIGIN and give the token in the address.
= remote
? can i [connect|use it|reach it|use tokenglass] from [another computer|my phone|another machine|the network|outside|a different pc]
? [can other computers connect|is the server reachable from outside|can i open it to my network|what does --host do|can i listen on 0.0.0.0|remote access|can someone on my wifi connect|can i use it from my phone]
- No: Tokenglass listens only on your own machine, at loopback addresses such as 127.0.0.1. Other computers can't connect.
= serverjson *2
n: server.json | the server.json file | the file server.json | the discovery file
what:
- server.json tells scripts how to connect: it holds url, base_url, token, pid, started and version. It is removed when the app exits.
short:
- It holds the address and the token for scripts.
where:
- server.json lies in the runtime folder of the app. With --home D it is D/runtime/server.json.
why:
- With it a script finds the running app without asking you.
= homeopt
n: --home | the --home option | TOKENGLASS_HOME | the home folder
what:
- --home DIR puts every file of the app, such as settings, data, cache and runtime files, under one folder. TOKENGLASS_HOME does the same.
short:
- It puts all files under one folder.
improve:
- Type: tokenglass --home DIR
= modelopt *2
n: --model | the --model option | the model option
what:
- --model chooses the model at the start, by its id or a file, for example: tokenglass --model FILE. Without it the last one used is loaded, or the starter.
short:
- It chooses the model at the start.
improve:
- Type: tokenglass --model FILE
= loglevel
? where are the logs
? [what is --log-level|how do i see the logs|where is the log file|is there a log|what is in the log|are my prompts in the log|how to get more logs|log file|logs]
- The log is a rotating file in the app's home folder. It never holds secrets or prompts at the default level; --log-level changes how much is written.
= bugreport
? how [do|can] i [report a bug|report a problem|get help|file an issue|give feedback]
? [i found a bug|something is broken|it doesn't work|what are the diagnostics|what is diagnostics|where can i get support|bug report|something does not work|i have a problem with tokenglass|tokenglass has an error]
- Copy the diagnostics text into a bug report: it holds versions, devices, settings and the last errors, but no secrets and no prompts. You can also run `tokenglass selftest`.
= version
? which version [of tokenglass|] [is this|do i have|am i using|is running]
? [what version is this|how do i see the version|tokenglass version|version|show version|how do i find out the version]
- Type `tokenglass --version` in a terminal to see the version.
= settings *2
? where are the settings
? [how do i change the settings|how do i open the settings|where can i change settings|settings|can i change the defaults|where do i set the temperature and so on|is there a settings file|preferences|where are the options]
- The settings are in the window, and also in a settings file. What you choose there, such as temperature or threads, can also be given as options on the command line.
= twice
? what happens if i start [tokenglass|it|the app] twice
? [can i run two instances|can i start it twice|two windows|is it possible to run two tokenglass|how do i run a second instance|second instance|already running]
- There is one instance per home: a second `tokenglass` raises the first window, and a second `serve` exits and names the first. With another --home both can run.
= exitcodes
? what [are|do] the exit codes [|mean]
? [what does exit code 1 mean|what does exit code 2 mean|exit codes|which exit code means success|exit status|what does exit code 0 mean]
- Exit code 0 means fine, 1 means failed with one readable line of error, and 2 means wrong usage.
= script *3
? how [do|can] i [connect|write|use|make] [a script|my script|a python script|my own program|a program] [to tokenglass|for the stream|with the stream|to follow the tokens|to the websocket|]
? [how can a script read the tokens|how do scripts connect|can i use it from python|how do i follow the stream from python|how do i read the stream|is there an api|can my program use the model|how do i get the ready-made script|where is the example script|can scripts see the tokens|does tokenglass have an api|api|how do i use the api|how do i connect to the stream|can i automate it|where do i get the ten line script]
- Connect to ws://127.0.0.1:7317/v1/live with your token and read JSON messages. The status line copies a ready-made ten-line script.
= openai *2
? [does tokenglass work|can i use it|is it compatible] with the openai [client|sdk|api|library]
? [is there an openai compatible api|openai api|can i use the openai python package|what is the base_url|what is the base url|which base url do i use|how do i use the openai client|is it openai compatible|use it with langchain|chat completions api|does it support chat completions]
- Set base_url to http://127.0.0.1:7317/v1 and api_key to your token: then an openai client talks to Tokenglass, and its answers show up in the window too.
= events *3
? [what|which] events [are there|does the stream have|are sent|can i get|exist|does tokenglass send]
? [list the events|what events does the stream send|name some events|what messages come over the websocket|what does the stream contain|what does the websocket send|events|event types|what kinds of events are there|what is in the stream]
- The main events are generation.started, generation.delta and generation.finished, model.loading and model.loaded, engine.exited, metrics.step, metrics.system and client.connected.
= event *2
n: an event | event | events in the stream | an event in Tokenglass
what:
- An event is a JSON message that tells what happened, such as a new token. Each carries type, seq and t.
short:
- It tells what happened.
where:
- Events come over the WebSocket at ws://127.0.0.1:7317/v1/live.
= delta *2
n: generation.delta | the generation.delta event | a delta | delta events | the delta event
what:
- generation.delta carries new tokens of an answer: the text, and for each token its id, index, text and time.
short:
- It carries new tokens.
= started
n: generation.started | generation.queued | the generation.started event
what:
- generation.started says that a generation has begun. It carries the model, prompt_tokens and cached_tokens; generation.queued comes before it.
short:
- It says that a generation has begun.
= finished *2
n: generation.finished | the generation.finished event | the finished event
what:
- generation.finished ends a generation: it carries the finish reason, the whole text, the usage in tokens, and the timings. There is exactly one for each generation.
short:
- It ends a generation and carries its timings.
= metricsstep *2
n: metrics.step | the metrics.step event | step metrics | step events
what:
- metrics.step describes one step of the engine: batch_size, prefill and decode tokens, the times of its parts, the KV cache use, and how many wait.
short:
- It measures one step of the engine.
= hellomsg
n: the hello message | the hello frame | hello in the stream
what:
- hello is always the first message on the WebSocket. It carries the protocol, client_id, run_id, epoch and the present seq.
short:
- It is the first message of a connection.
= seq *2
n: seq | the sequence number | sequence numbers | the seq field | seq numbers
what:
- seq is the number of an event; it rises by one over all events of a run. A client that reconnects gives the last seq it saw and gets every later event.
short:
- It numbers the events.
why:
- With seq no event is lost when a connection breaks.
= replay
n: replay | the replay | since | the since field | resuming the stream | a reset | the reset message
what:
- With subscribe and since a client asks for all events after a seq. If the gap can't be filled it gets one reset and a snapshot.
short:
- It sends the events that a client missed.
= snapshot *2
n: a snapshot | snapshot | the snapshot | the snapshot command
what:
- A snapshot is the whole present state in one message: the model, the slots, the generations and the clients.
short:
- It is the whole state in one message.
= subscribe *2
n: subscribe | the subscribe command | a subscription | subscriptions
what:
- subscribe chooses the events a client gets, with patterns such as generation.*, and whose generations: own or all.
short:
- It chooses which events you get.
improve:
- Send: {"id": 1, "type": "subscribe", "events": ["generation.*"], "generations": "all"}
= generate *2
n: generate | the generate command | the command generate
what:
- generate starts an answer. It takes messages or a prompt, and options such as max_tokens, sampling, stop and tools; the reply carries the generation_id.
short:
- It starts an answer.
improve:
- Send: {"id": 1, "type": "generate", "messages": [{"role": "user", "content": "Hi"}]}
= cancelcmd *2
n: cancel | the cancel command | cancelling | the command cancel
what:
- cancel stops a generation by its generation_id, also while it is queued or still in the prompt. The text so far is kept.
short:
- It stops a generation.
improve:
- Send: {"id": 2, "type": "cancel", "generation_id": "..."}
= pause *2
n: pause | the pause command | pause and resume | resume | pausing a generation
what:
- pause holds a running generation and resume lets it go on. While it is paused, step goes on token by token.
short:
- It holds a generation.
= fork *2
n: fork | the fork command | forking a generation | rewind | the rewind command | branching
what:
- rewind takes back the last tokens of a generation, and fork starts a branch of it at a token, sharing the KV cache.
short:
- rewind goes back, fork branches off.
= inject
n: inject | the inject command | injecting text | injected tokens
what:
- inject puts text into a running or paused generation, and the model goes on from there. Such tokens are marked as injected.
short:
- It puts text into an answer.
= commandsws *2
? [what|which] commands can [a script|a client|i] send
? [list the websocket commands|which commands does the websocket know|what can a script do|what can i send over the websocket|commands of the stream|websocket commands]
- A client can send generate, cancel, subscribe, snapshot, models.list, models.load, conversations commands and ping; further ones are pause, resume, step, update, rewind, inject and fork.
= slowclient *2
? what happens [to|with] a slow client
? [what if a client doesn't read|what if my script is too slow|what is a slow client|why was my client cut|what does last_cut mean|what does cut slow mean|my script was disconnected|client was cut|can a slow client block others]
- A client that doesn't read is cut when its backlog passes 1 MiB or doesn't move for 5 seconds, so that nobody else is slowed. It can reconnect and resume with since.
= worker *2
n: the worker | worker | the engine worker | the worker process | a worker
what:
- The worker is the child process that runs the model with llama.cpp. The app talks to it over a pipe, so a crash never takes the window.
short:
- It is the process that runs the model.
why:
- In its own process the model isn't slowed by drawing, and a crash can't close the window.
= supervisor *2
n: the supervisor | supervisor | a supervisor | the engine supervisor
what:
- The supervisor starts and watches the worker. If the worker dies it restarts it, waiting a little longer each time, and tells every client.
short:
- It watches and restarts the worker.
= epoch
n: epoch | the epoch | the epoch number
what:
- The epoch counts how often the worker was started. It rises by one after a crash or a restart.
short:
- It counts the starts of the worker.
= step *2
n: a step | the engine step | a step of the engine | the step loop | engine steps
what:
- A step is one round of the engine: it decodes one batch, samples the next token of each generation, and sends them out.
short:
- It is one round of the engine.
= generation *2
n: a generation | generation | generations in tokenglass | a generation in Tokenglass
what:
- A generation is one run of the model for one prompt, from the queue to the last token. It has a generation_id.
short:
- It is one answer in the making.
= client *2
n: a client | clients | the number of clients | the client number | clients in the status line | what counts as a client
what:
- A client is a program connected to the stream, such as your script. The window is client zero: it gets the same events as any other.
short:
- A client is a program that is connected to the stream.
where:
- The number of clients is shown in the status line at the bottom.
= timings *2
n: timings | the timings | the timings field | the ledger | the bar under the answer | the bar below an answer
what:
- The timings tell where an answer's time went: queue, prefill, first token, decoding, and tokens per second. They come with generation.finished.
short:
- They tell where the time went.
= q4 *2
n: Q4_K_M | Q4 | q4_k_m | 4-bit quantization | Q4_0
what:
- Q4_K_M is a quantization with about 4 to 5 bits per weight: small, fast, and still good. It is the usual choice.
short:
- It is the usual 4-bit quantization.
good:
- Choose it when you are unsure. A 7B model in Q4_K_M is a file of about 4.4 GB.
= q8 *2
n: Q8_0 | Q8 | q8_0 | 8-bit quantization
what:
- Q8_0 is a quantization with 8 bits per weight: nearly as good as the original, at half its size. I am stored in Q8_0 myself.
short:
- It is the nearly lossless 8-bit quantization.
good:
- Choose it for small models or when you have much memory.
""")
