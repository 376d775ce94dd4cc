"""Tokenglass itself: what it is, its promises, its commands, its options and its window."""

# ruff: noqa: E501  (a sentence or a pattern stands on one line)

from __future__ import annotations

from corpus.dsl import parse_topics

TOPICS = parse_topics("""
= tokenglass *5
n: Tokenglass | tokenglass | this app | this program | this application | the Tokenglass app | this software | this tool | this thing
what:
- Tokenglass is a desktop app that runs a language model on your own machine and shows live what it does: the text, the speed and the memory.
- Tokenglass runs a local language model in a window with live plots, and sends the same tokens and metrics to local scripts over a WebSocket.
short:
- Tokenglass runs a model on your machine and shows live what it does.
good:
- Start by asking a question and watch the plots at the right. Then load a bigger model with the model switcher at the top left.
why:
- It shows what a model does while it does it, keeps everything on your machine, and lets any local script follow the same stream.
simple:
- It is like a glass box around a language model: you can see every token as it is made.
what:
? what [does|can] [tokenglass|this app|this program] do
? [what is this|what is this for|what is this all about|what can i do with tokenglass|what do i use tokenglass for|where am i|what did i just install|what is the purpose of tokenglass|what is the idea of tokenglass|what are the features of tokenglass|what can i do here|give me an overview of tokenglass|sum up tokenglass in one sentence|how does tokenglass work|how does this work]
= special *2
? what makes [tokenglass|this app|it] [special|different|unique|better]
? [why should i use tokenglass|what is special about tokenglass|how is tokenglass different from other apps|how is this different from ollama|how is it different from lm studio|why tokenglass|what is new about tokenglass|tokenglass vs ollama|what does tokenglass have that others don't|advantages of tokenglass]
- Tokenglass plots tokens per second and inter-token latency live, and any local script can follow every token and metric of a generation, even one that somebody else started.
= promises
? what are the promises of tokenglass
? [what does tokenglass promise|tell me the promises|which promises does tokenglass make|list the promises of tokenglass|what guarantees does tokenglass give]
- Tokenglass promises: a first answer without a download, a stream that tells the truth, no lost tokens, an engine crash that is only a hiccup, and that no web page gets in.
= privacy *4
? is [tokenglass|this|my data|it|this app|this chat] [private|safe|secure|confidential]
? does [tokenglass|this app|it|the app] [send|upload|share|collect|store] [my data|anything|data|my messages|my chats|telemetry] [anywhere|to the internet|online|to a server|]
? [where does what i type go|where does my text go|where do my prompts go|who gets my prompts|what happens with what i type|who sees what i write|is somebody reading this|can my boss see this|do my words leave this computer|is my input sent anywhere]
? [who can read my messages|who can see my chats|does anything leave my machine|does my data leave my computer|where does my data go|is my data sent to the cloud|do you spy on me|are my chats private|does tokenglass phone home|is there telemetry|are my prompts uploaded|can i enter secrets here|can someone else read this|what about privacy|privacy|tell me about privacy|is it cloud based|is this running in the cloud|do you send my text to a company|what happens with my data|are you spying on me]
- Everything runs on your own machine: the model, the window and the server. Your messages never leave it, and nothing is uploaded.
- Your text stays private: Tokenglass computes everything locally, and nothing leaves your machine.
= offline *2
? does [tokenglass|it|this|this app|the app] [work|run] [offline|without internet|without a connection|on a plane|without wifi]
? [do i need internet|do i need an internet connection|can i use it offline|do i need to be online|is internet required|can i use you without internet|does it need wifi|does it need the internet|is an internet connection needed|do i need an account|do i need an api key|do i have to sign up|do i need to log in]
- Tokenglass works offline. The starter model is built in, so you need no internet, no account and no API key. Only downloading a bigger model needs a connection.
= price
? is [tokenglass|this app|this|it] [free|open source|free of charge|free software]
? [what does tokenglass cost|how much does it cost|do i have to pay|what is the license|which license does tokenglass have|is there a subscription|what license is it under|under which license is tokenglass|price|cost of tokenglass|can i use it at work|can i use it commercially|is the starter model free|what is the license of the starter model]
- Tokenglass is free and open source under the MIT license, and so is the starter model. There is nothing to pay.
= maker2
? who [made|built|created|wrote|develops|owns|is behind] [tokenglass|this app|this program]
- Tokenglass is made by the Tokenglass project as open-source software under the MIT license.
= platform
? [what|which] [platform|system|operating system|os] does [tokenglass|it|this app] [run on|need|support|work on]
? [does it run on windows|does tokenglass run on linux|does it run on mac|what are the system requirements|what hardware do i need|do i need a gpu|can i run it without a graphics card|do i need a graphics card|does it need a gpu|is a gpu required|which computer do i need|can my laptop run tokenglass|how much ram do i need|what are the requirements|does it work on an old laptop|minimum requirements]
- Tokenglass runs on an ordinary x86-64 computer, for example with Debian or Ubuntu. A GPU is not needed, but makes big models much faster. For a 7B model 8 GB of memory are enough.
= bigger *5
? how [do|can] i [load|use|get|open|switch to|add|install|try|choose|run|import|pick] [a bigger|another|a different|a new|a better|my own|a larger|a gguf|an other|a smarter|a local|a second] [model|model file|one|llm]
? [how to|where can i|where do i] [load|use|get|open|add|change|switch|select] [a bigger model|another model|the model|a gguf file|models|a better model|a new model]
? [i want you to be smarter|how do i make you smarter|can you become smarter|i need a smarter ai|give me a better ai|can i upgrade you|how do i upgrade the model|you are too small, what now|where is the big model|how do i get a real model|i have a model file on my disk|how do i put a gguf in here]
? [can i use other models|can i load another model|can i change the model|change model|change the model|how do i change models|load model|load a model|load a bigger model|switch model|switch models|i want a better model|i want a bigger model|i want to use llama 3|i have a gguf file, what now|how do i use a gguf file|how do i open a gguf|i downloaded a model, what now|how do i use qwen|how to run mistral|is there a better model|add a model|how do i replace the starter model|where do i put my model files|how do i import a model|load bigger model|i want a smarter model]
- Use the model switcher at the top left of the window, or drag a GGUF file onto the window. In a terminal: `tokenglass models add FILE`, or start with `tokenglass --model FILE`.
- Click the model switcher at the top left and choose a GGUF file, or drag the file onto the window. From the terminal use `tokenglass models add FILE` or `tokenglass --model FILE`.
= whichmodel *2
? which model [should i|do i|can i] [use|load|take|download|choose|get]
? [what is a good model|can you recommend a model|what model do you recommend|recommend me a model|which model is best|what model fits my computer|what is the best model for 8 gb|which model for my laptop|which gguf should i download|what size of model should i use|which model fits into 8 gb of ram|which model for 16 gb|what model should i start with|good models]
- With 8 GB of memory take an instruct model of 1 to 4 billion parameters, with 16 GB one of 7 or 8 billion, as a GGUF file in Q4_K_M. Then load it with the model switcher at the top left.
= download *2
? where [can|do] i [get|find|download] [models|a model|gguf files|more models|bigger models|other models|a gguf]
? [how do i download a model|can tokenglass download models|download a model|how to download models|how do i pull a model|what does tokenglass models pull do|where are models from|can you download a model for me|how to get a gguf]
- Download a GGUF file from a model hub, or run `tokenglass models pull REPO` in a terminal. Then choose it in the model switcher.
= formats
? [what|which] [model formats|file formats|formats|models|model files|kinds of models] [are supported|does tokenglass support|can i load|can i use|does it support|work]
? [does it support safetensors|can i load a pytorch model|can i load onnx|can i use safetensors files|does it run any gguf|is gguf the only format]
- Tokenglass loads models in the GGUF format, the format of llama.cpp. Other formats must be converted to GGUF first.
= starter2 *2
? why is there a starter model
? [why do you exist|why does tokenglass come with a model|what is the starter model for|what is the starter model good for|why are you the default model|do i need to download a model first|do i need to download anything|can i start right away|is a model included|is there a built in model|which model is built in|what is the default model]
- The starter model is built in, so that the first answer needs no download. It is very small; load a bigger model for serious work.
= switcher *2
n: the model switcher | model switcher | the model menu | the model selector
what:
- The model switcher at the top left of the window shows the loaded model. Click it to choose another one or to open a GGUF file.
short:
- It is at the top left and changes the model.
where:
- The model switcher is at the top left of the window.
improve:
- Click it, then choose a model from the list or open a GGUF file.
= window *2
? what [is|do i see|are the parts] [in the window|in this window|of the window|on the screen|on my screen]
? [explain the window|explain the user interface|explain the interface|describe the window|how is the window organized|what are the parts of the window|what is where|give me a tour|show me around|tour of the window|explain the screen|what does the window show|what am i looking at|the layout of the window|how is the window laid out]
- At the left are your conversations, in the middle is the chat, and at the right are live plots and cards. The status line at the bottom shows the engine, the address and the clients; the model switcher is at the top left.
= left
? what is [at the left|on the left|on the left side|the left panel|the list at the left|the sidebar|the left sidebar]
? [where are my conversations|where are my old chats|where do i find my chats|where is my chat history|where is the history|how do i find an old conversation|how do i open an old chat|where can i see previous conversations|how do i go back to an earlier chat|show my chats]
- At the left is the list of your conversations. Click one to open it again.
= middle
? what is [in the middle|in the centre|in the center|the chat pane|the middle part|the chat area]
? [where do i type|where do i write|how do i send a message|how do i ask a question|how do i chat|where is the input box|where do i enter text|how do i start chatting|where do the answers appear]
- The chat is in the middle of the window. Type into the box below it and press Enter; the answer streams in above.
= plots *4
? [what are the curves at the right|what do the lines on the right show|what is that on the right hand side|what are the moving lines|what is being plotted|which curves are drawn|what do the live charts tell me|what are the diagrams next to the chat]
? what [are|do|is] the [plots|graphs|charts|curves|diagrams|lines] [at the right|on the right|mean|show|for|telling me|about|here]
? [what is on the right|what is at the right|what is on the right side|explain the plots|explain the graphs|what do the plots show|what do the graphs mean|which plots are there|what does the right side show|what are the plots|what are these graphs|what can i see in the plots|tell me about the plots|the live plots|what are the live plots|how do i read the plots|where are the plots|how do i read the graphs|what are those charts]
- The plots at the right show live: tokens per second, inter-token latency, context and KV cache use, and CPU and memory, with the GPU where there is one.
= cards *2
? what [are|do|is in] the cards [at the right|mean|show|on the right|]
? [explain the cards|which cards are there|what do the cards show|what do the boxes on the right show|what are the cards|tell me about the cards|what does the model card show|the cards]
- The cards show the model, tokens per second, the first-token time, the latency and the context of the present answer.
= dash
? [what does the dash mean|why is there a dash|why do i see a dash in a card|what does – mean|why does a card show –|why is a number missing|why is there no number]
- A dash means that nothing has been measured yet. Tokenglass never shows placeholder figures.
= statusline *2
n: the status line | status line | the status bar | the bar at the bottom | the line at the bottom
what:
- The status line at the bottom shows the engine's state, the server's address and the number of clients. A click copies the address, the token or a ready-made script.
short:
- It shows the engine, the address and the clients.
where:
- The status line is at the bottom of the window.
improve:
- Click the address, the token or the script in it to copy them.
= copyaddr *2
? how [do|can] i [copy|get|find|see] the [address|server address|url|websocket address]
? [where is the server address|where do i find the address|where is the url|how do i get the url of the server|what is the url|where can i see the address|copy the address]
- Click the address in the status line at the bottom of the window to copy it. It is ws://127.0.0.1:7317/v1/live unless you chose another port.
= theme *2
? how [do|can] i [change|switch|set|turn on|use|enable|get] [the theme|the dark theme|dark mode|the light theme|light mode|the colours|the dark mode]
? [is there a dark mode|is there a dark theme|which themes are there|dark mode|light mode|how to make it dark|can i change the colors|what themes does tokenglass have|does it have a dark theme|can i have a light theme|too bright|it is too dark|make it dark|night mode]
- Tokenglass has a light and a dark theme. You switch between them in the window.
= stopgen *4
? how [do|can] i [stop|cancel|abort|interrupt|end|halt] [an answer|a generation|the answer|the generation|the model|you|it|the reply|the output|a running answer|this]
? [how do i interrupt an answer in the middle|how do i make you stop talking|stop talking, how|which key ends an answer|how can i break off an answer|you talk too much, how do i stop that|cancel the current answer]
? [how to stop|how to stop the model|stop button|where is the stop button|can i stop an answer|how do i make it stop|what key stops the answer|what does esc do|what does the escape key do|the answer is too long, how do i stop it|how do i cut you off|how to interrupt you|it doesn't stop, what can i do|how to cancel generation]
- Press Esc or click the stop button. The generation ends within one step, and the text so far is kept. A script sends the command cancel.
= regenerate *2
? how [do|can] i [regenerate|redo|repeat|get a new version of] [an answer|the answer|the reply|a response|the last answer]
? [what does regenerate do|regenerate|how do i get another answer|how do i try again|can i get a different answer|how to get a new answer|where is regenerate|i don't like the answer, what can i do|retry an answer|how to retry]
- Click Regenerate below the answer: the model then writes another answer to the same message.
= copy *2
? how [do|can] i copy [an answer|the answer|text|the text|a reply|a code block|code]
? [where is the copy button|can i copy the answer|copy answer|how to copy text|how do i get the text out|copying an answer|how do i save an answer]
- Click Copy below the answer. Then the text is in your clipboard.
= newchat *2
? how [do|can] i [start|begin|open|create|make] a [new|fresh|second|empty] [conversation|chat]
? [new chat|new conversation|how to start over|how do i start over|how do i clear the chat|how to reset the chat|where is the new chat button|begin a new conversation|clear the conversation|clear chat]
- Start a new conversation in the list at the left of the window. The old one stays there.
= rename
? how [do|can] i [rename|delete|search|remove|find|manage] [a conversation|a chat|conversations|my chats|an old chat]
? [delete a chat|rename a chat|search my chats|can i delete conversations|can i search in my chats|how to delete the history|delete my history|erase my chats]
- Conversations are managed in the list at the left. Scripts have the commands conversations.rename, conversations.delete and conversations.search.
= export
? how [do|can] i [export|import|save|back up|backup|share] [a conversation|a chat|my conversations|my chats|the history]
? [can i export my chats|export chat|export conversation|save my chat to a file|is there an export|back up my chats]
- Conversations are saved by themselves. A script can export and import them with the commands conversations.export and conversations.import.
= storage *2
? where are [my conversations|my chats|my messages|the chats|conversations|my data|the files|the logs] [stored|saved|kept|]
? [are my conversations saved|are chats saved|do you save my chats|is the chat history saved|where is my data|where does tokenglass keep its files|will my chat still be here tomorrow|what happens to my chat when i close the window|do i lose my chat if i quit|where is the database|in which file are my chats]
- Conversations are saved on your own disk, in a SQLite database in the app's data folder, and loaded again at the next start. With --home DIR everything lies under one folder.
= crash *2
? what happens [if|when] the [engine|model|worker] [crashes|dies|fails|stops working|is killed]
? [what if the engine crashes|what if it crashes|the engine crashed|the model crashed, what now|the worker died|what happens in a crash|does a crash lose my chat|why did the engine restart|it crashed|is tokenglass crash safe|what if the model process is killed|will i lose my answer if the engine crashes]
- The engine runs in its own process, so a crash doesn't take the window. The supervisor restarts it, every client is told, and the next generation works.
= others *2
? what are the [marked|other|strange] [generations|messages|answers] [from other clients|in my window|that i did not start|]
? [can i see generations from scripts|do i see what other clients do|who started this generation|why is there an answer i didn't ask for|do generations of scripts show in the window|can the window show other clients|does the window show what scripts generate]
- Generations started by other clients, such as scripts, show up live in the window, marked with who started them.
= slowmodel *3
? why is [it|the model|this|the answer|my model|tokenglass|the big model|everything] so slow
? how [can|do] i [make|get] [it|the model|answers|tokenglass|generation] [faster|quicker|run faster|speed up]
? [it is too slow|the model is slow|speed it up|how to speed up|answers take too long|how to get more speed|how do i improve the speed|slow answers|how can i improve performance|performance tips|low tokens per second, what can i do|make it faster]
- Use a smaller model or a stronger quantization such as Q4_K_M, put layers on the GPU with --gpu-layers auto, and set --threads to the number of real cores less one.
= memoryfull *2
? what [happens|can i do] [when|if] the context is full
? [context full|the context is full, what now|what happens when the conversation gets too long|what does context_full mean|what if my prompt is too long|my prompt is too long|what if the conversation is longer than the context|prompt too long|why does it forget the beginning|why did the model forget what i said|why are old messages dropped|what does trimmed_messages mean|can i run out of context]
- When a conversation gets longer than the context, its oldest turns are dropped and Tokenglass says so; the system prompt is kept. A larger --ctx holds more.
= outofmem
? [it says out of memory|out of memory|the model does not fit|not enough memory|my model does not load|the model won't load|loading the model failed|model failed to load|i can't load my model|the model is too big for my computer|why does my model not load|i get an out of memory error]
- Try a smaller model or a stronger quantization, a smaller --ctx, fewer slots with --parallel, or fewer layers on the GPU with --gpu-layers.
= repeats *2
? why does [the model|it|my model] [repeat itself|keep repeating|say the same again and again|loop|repeat the same words]
? [the answer repeats|the model repeats itself|it keeps repeating itself|how do i stop repetition|it is stuck in a loop|the text loops|how to avoid repetition|same sentence over and over]
- Small models fall into loops. Raise the repeat penalty to about 1.1, or use a higher temperature or a bigger model.
= random *2
? why [do i get|are there|does it give] [a different answer|different answers|another answer] [each time|every time|to the same question|]
? [how do i get the same answer again|how can i make answers repeatable|are the answers random|make it deterministic|how to get reproducible answers|why are answers different each time|how do i get the same output twice|deterministic output]
- Sampling is random. Set the temperature to 0, or use a fixed seed with the same settings, to get the same answer again.
= nonsense *2
? why [does the model write|is the answer|do i get] [nonsense|garbage|wrong|rubbish|bad answers|so bad]
? [why are your answers so bad|why do you make mistakes|why are you so stupid|the answers are bad|how do i get better answers|how to get better answers|why is your answer wrong|why can't you answer this|i want better answers|the model is not smart enough|how can i improve the answers]
- I am a very small model, so I know little and make mistakes. For better answers load a bigger model with the model switcher at the top left, and keep the temperature below 1.
""")
