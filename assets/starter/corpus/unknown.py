"""What the starter can't know, and how it says so."""

# ruff: noqa: E501, SIM905  (a sentence or a pattern stands on one line)

from __future__ import annotations

import random

from corpus.dsl import expand, sloppy

COUNTRIES = """France Germany Spain Italy Japan China India Brazil Canada Mexico Egypt Kenya Norway Sweden Finland Denmark Poland
Portugal Greece Turkey Iran Iraq Chile Peru Argentina Australia Austria Belgium Switzerland Ireland Iceland Russia Ukraine Morocco
Nigeria Ghana Vietnam Thailand Korea Mongolia Nepal Cuba Hungary Romania Bulgaria Croatia Serbia Ethiopia Uganda Colombia""".split()
CITIES = """Paris London Berlin Madrid Rome Tokyo Beijing Delhi Moscow Cairo Lagos Oslo Vienna Prague Lisbon Athens Dublin Boston
Chicago Toronto Sydney Mumbai Seoul Istanbul Munich Hamburg Zurich Milan Barcelona Warsaw Budapest Lima Bogota Denver""".split()
FAMOUS = ["Albert Einstein", "Napoleon", "Julius Caesar", "Marie Curie", "Isaac Newton", "Shakespeare", "Mozart", "Beethoven", "Cleopatra",
          "Leonardo da Vinci", "Gandhi", "Abraham Lincoln", "George Washington", "Elon Musk", "Barack Obama", "Taylor Swift", "Messi", "Ronaldo",
          "Charles Darwin", "Galileo", "Alan Turing", "Ada Lovelace", "Steve Jobs", "Bill Gates", "the pope", "the king of England", "Picasso",
          "Vincent van Gogh", "Bach", "Plato", "Aristotle", "Confucius", "Joan of Arc", "Queen Elizabeth", "Michael Jackson", "Tom Hanks", "Goethe", "Linus Torvalds"]
THINGS = """photosynthesis gravity electricity magnetism evolution DNA atoms black-holes volcanoes earthquakes dinosaurs vaccines viruses bacteria
inflation democracy capitalism philosophy blockchain bitcoin quantum-physics relativity thermodynamics the-brain the-heart the-moon the-sun
the-ocean rainbows lightning the-immune-system nuclear-power solar-energy climate-change the-internet Kubernetes Docker React Rust-lifetimes calculus
algebra trigonometry probability the-french-revolution the-roman-empire the-cold-war the-renaissance the-middle-ages world-war-two the-moon-landing
ancient-egypt the-stock-market taxes insurance mortgages chess cricket baseball cooking bread-baking gardening opera jazz poetry Buddhism
yoga glaciers tides metabolism proteins vitamins plate-tectonics cells enzymes lasers transistors the-periodic-table hydrogen uranium
penicillin anxiety string-theory game-theory entropy neurons hormones fractals topology linguistics""".split()
LANGS = "German French Spanish Italian Chinese Japanese Russian Polish Dutch Swedish Turkish Arabic Hindi Latin Portuguese Korean Greek Finnish".split()
ANIMALS = "elephant whale giraffe cheetah ant spider octopus bat penguin dolphin horse shark eagle kangaroo tortoise cow cat dog bee frog".split()
SENTENCES = ["good morning", "I love you", "where is the station", "the cat is on the table", "thank you very much", "how are you", "I am hungry", "see you tomorrow",
             "the weather is nice", "my name is Tom", "I would like a coffee", "hello", "good night", "the red house", "please help me", "water", "happy birthday"]
SYL = "ka lo mi ra ten vor sal den bri gor un mel fa zi ro pel tas qui nor dra vel om shu ber lin cor ja wen tho ska pri mon".split()

FACTS = [
    "what is the capital [city|] of $COUNTRY", "capital of $COUNTRY", "[tell me|do you know|name] the capital of $COUNTRY", "which city is the capital of $COUNTRY", "what is $COUNTRY's capital",
    "how many people live in [$COUNTRY|$CITY]", "what is the population of [$COUNTRY|$CITY]", "where is [$CITY|$COUNTRY]", "in which country is $CITY", "what language is spoken in $COUNTRY",
    "who is the president of $COUNTRY", "who is the prime minister of $COUNTRY", "who rules $COUNTRY", "what currency does $COUNTRY have", "how big is $COUNTRY", "how far is it from $CITY to $CITY2",
    "who [was|is] $FAMOUS", "when was $FAMOUS born", "when did $FAMOUS die", "tell me about $FAMOUS", "what did $FAMOUS [do|invent|write|discover]", "how old is $FAMOUS", "where was $FAMOUS born", "what do you know about $FAMOUS",
    "who was the first [president of the usa|man on the moon|emperor of rome|woman in space|king of $COUNTRY]", "who [invented|discovered|built] [the telephone|the light bulb|the radio|penicillin|the steam engine|the wheel|america|the internet|the computer|printing|the airplane|paper|the pyramids|x-rays]",
    "when did [world war 2|world war one|the cold war|the roman empire|the french revolution|the second world war|the middle ages] [end|start|begin]", "in what year [did the titanic sink|was $COUNTRY founded|did the berlin wall fall|did columbus sail|was the moon landing]",
    "when was the [battle of|treaty of|founding of] $CITY", "what happened in [1066|1789|1848|1914|1945|1969|1989|1492|1815|2001]", "who won the [world cup|super bowl|election|nobel prize|oscar|champions league|tour de france] [in 2010|last year|this year|yesterday|]",
    "what is $THING", "explain $THING", "explain $THING to me", "how does $THING work", "how do $THING work", "tell me about $THING", "what do you know about $THING", "define $THING", "what are $THING", "give me facts about $THING", "why is $THING important", "teach me $THING", "what causes $THING", "history of $THING",
    "how [fast|big|heavy|old|tall|long] [is|can be|does get] [a|an] $ANIMAL", "how fast can a $ANIMAL run", "what does a $ANIMAL eat", "how long does a $ANIMAL live", "where do ${ANIMAL}s live", "how many legs does a $ANIMAL have", "do ${ANIMAL}s sleep",
    "how [tall|high] is [mount everest|the eiffel tower|the matterhorn|the empire state building|the tallest building]", "what is the [highest mountain|longest river|biggest country|largest ocean|deepest lake|smallest country|largest desert|fastest animal|tallest building|biggest planet|speed of light|boiling point of water|distance to the moon|chemical symbol for gold|formula of water|square root of 2|largest city] [in the world|]",
    "how far away is the [moon|sun|nearest star]", "how old is the [earth|universe|sun]", "why is the sky blue", "why is the [grass green|sea salty|sky dark at night]", "how many [planets|stars|moons|continents|countries|oceans] are there", "why do [leaves change colour|cats purr|birds sing|we sleep|we dream|stars shine|people yawn]",
    "who wrote [hamlet|faust|the odyssey|war and peace|harry potter|don quixote|moby dick|the bible|romeo and juliet|1984]", "who painted [the mona lisa|guernica|the starry night|the scream]", "who sang [yesterday|thriller|imagine|hey jude]", "who composed [the magic flute|the ninth symphony|the four seasons]", "who plays in [titanic|star wars|the matrix]",
    "[can you|could you|please] [explain|describe] [how|why] $THING [works|matters|happens]", "i want to learn about $THING", "i need help with [my homework|math homework|history homework|physics|chemistry|biology|$THING]", "[is|was] $FAMOUS [still alive|dead|american|a scientist|famous]", "what is $CITY [known for|famous for]", "give me [three|five|some] facts about [$COUNTRY|$THING|$FAMOUS|${ANIMAL}s]", "tell me [something|a bit|more] about [$COUNTRY|$CITY|the history of $COUNTRY|${ANIMAL}s]", "what is the plot of [hamlet|titanic|star wars|the matrix|moby dick|dune]", "summarize [hamlet|the bible|the lord of the rings|the matrix]", "what is the chemical formula of [salt|sugar|ammonia|methane]", "what is the atomic number of [iron|oxygen|gold|helium]",
    "who is $NAME", "what is [a|an|the|] $WORD", "tell me about $NAME", "what does $WORD mean", "who is the ceo of [$WORD|google|apple|microsoft|tesla|amazon]", "what is the meaning of the word $WORD", "have you heard of $NAME", "when was $WORD founded", "what do you know about $WORD", "explain $WORD", "where is $WORD", "is $NAME married",
]
NEWS = [
    "what is [in|] the news [today|]", "[latest|current|today's] news", "what happened [today|yesterday|this week|last night|in the world today|in $COUNTRY today]", "who won [the game|the match|the election|the race] [yesterday|last night|today|]", "what's new in the world", "any news [about|from] [$COUNTRY|$CITY|$FAMOUS]",
    "what is the [stock price of|price of|share price of] [apple|tesla|bitcoin|gold|oil|$WORD]", "how much is [bitcoin|gold|a dollar in euros|one euro in dollars] [today|now|right now|]", "what is the exchange rate of the dollar", "give me the [headlines|sports results|football results|latest headlines]", "what is going on in $COUNTRY",
    "will [it|the stock market|bitcoin] [go up|fall|crash] tomorrow", "what are the [lottery numbers|election results|traffic conditions]", "is there traffic on the way to $CITY", "what is on tv tonight", "when is the next train to $CITY", "what movies are in the cinema", "what is trending today", "flight prices to $CITY",
]
WEATHER = [
    "what is the weather [today|tomorrow|like|now|in $CITY|like in $CITY|like today|]", "what's the weather [in $CITY|like|tomorrow|]", "hows the weather [in $CITY|]", "will it [rain|snow|be sunny|be cold|be hot] [today|tomorrow|in $CITY|this weekend|on monday|]", "weather [in $CITY|today|tomorrow|forecast|please]", "is it [raining|cold|sunny|hot|snowing] [in $CITY|outside|now|today]",
    "do i need an umbrella [today|tomorrow|]", "how [warm|cold|hot] is it [in $CITY|outside|today]", "what is the temperature [in $CITY|outside|in $CITY today|out there]", "give me the forecast for [$CITY|tomorrow|the weekend]", "should i wear a jacket today", "when will it stop raining",
]
TRANSLATE = [
    "translate $SENT [to|into] $LANG", "translate '$SENT' [to|into] $LANG", "how do [you|i|we] say '$SENT' in $LANG", "how to say $SENT in $LANG", "what is '$SENT' in $LANG", "what is the $LANG word for [water|house|love|dog|bread|friend]", "can you translate [this|something|a text|a letter] [to|into|from] $LANG", "translate this [text|sentence|email] into $LANG: $SENT",
    "$SENT in $LANG please", "say $SENT in $LANG", "write [a letter|an email|a sentence|a poem] in $LANG", "what does 'bonjour' mean in [english|$LANG]", "please answer in $LANG", "answer in $LANG", "put this into $LANG: $SENT", "teach me [some|] $LANG", "translate from $LANG to english: $WORD $WORD2",
]
LONG = [
    "write [me|] [a|an] [long|1000 word|500 word|detailed|five page|school|full|complete|in-depth|] essay [about|on] [$THING|$FAMOUS|$COUNTRY|friendship|freedom|technology]", "write [a|the] [novel|book|chapter|thesis|dissertation|speech|report|term paper|newspaper article|blog post|screenplay|business plan|research paper|cover letter|song about love] [about|on|for] [$THING|$COUNTRY|my company|school|my job|a startup]",
    "summarize [this|a|the] [article|book|long text|pdf|paper|document|report] [for me|]", "write my [homework|thesis|essay|cover letter|cv|resume|application|bachelor thesis|speech]", "proofread my [essay|thesis|letter|text]", "do my homework [about $THING|]", "write a [2000|1500|800|3000] word [article|text|essay|story|report] [about $THING|]", "analyze [hamlet|this poem|the text|a novel] in detail", "compare [$THING|$COUNTRY] [and|with] [$THING2|$COUNTRY2]", "discuss the causes of $THING", "write a wikipedia article on $THING", "give me a detailed history of $COUNTRY",
]
MEDICAL = [
    "i have [a headache|a fever|chest pain|a rash|a cough|back pain|a sore throat|stomach pain|high blood pressure|a cold|diabetes|a toothache|an allergy|the flu|pain in my knee], what [should i do|can i take|is it|helps|medicine do i need]", "how many [aspirin|ibuprofen|paracetamol|pills|painkillers] can i take", "is [ibuprofen|aspirin|this pill|alcohol|coffee|this mole|my rash] [safe|dangerous|good for me|safe in pregnancy]", "what are the symptoms of [flu|cancer|diabetes|covid|a stroke|measles|appendicitis]", "do i have [cancer|the flu|covid|diabetes|an infection]", "how do i [treat|cure] [a burn|a cold|acne|a migraine|the flu|a fever|insomnia]", "should i see a doctor", "what medicine helps against [pain|fever|allergies|cough]", "what is a good diet for [diabetes|losing weight|high cholesterol]", "give me medical advice", "my [child|baby|dog|wife|mother] has [a fever|a rash|a cough]", "is my heart ok", "what dose of [vitamin d|insulin|ibuprofen] should i take", "can i mix [aspirin|antibiotics] and alcohol", "my [arm|leg|chest|head|tooth|back|ear] hurts",
]
LEGAL = [
    "can i sue my [neighbour|landlord|boss|employer|bank|doctor]", "can my landlord [evict me|raise the rent|keep my deposit|enter my flat]", "is it legal to [record a call|copy a dvd|park here|work at 15|grow cannabis|fire me|download music]", "what are my rights [as a tenant|at work|if i am arrested|as a buyer|]", "how do i [write a will|get a divorce|file a lawsuit|contest a ticket|register a trademark]", "give me legal advice", "do i need a lawyer", "how do i [save|pay less] taxes", "should i [invest in|buy|sell] [stocks|bitcoin|gold|a house|tesla shares]", "how should i invest my money", "what stocks should i buy", "am i liable for [the damage|an accident]", "is my contract valid", "write a contract for [a flat|a job|a car]", "how much tax do i pay", "can my boss fire me", "is this contract legal", "where should i invest 1000 euros",
]
HARD = [
    "write a [complete|full|whole|] [web app|operating system|compiler|game engine|chess engine|mobile app|website|database|shop|tetris game|social network] [in python|in rust|in java|for me|with react|]", "what is the [integral|derivative] of [x^2|sin x|e^x|log x|x^3]", "solve the equation x^2 + 3x = [7|4|10]", "prove [the pythagorean theorem|fermat's last theorem|the riemann hypothesis|that pi is irrational]", "debug my [java|c++|rust|kotlin] [program|code|project]", "write a [kernel driver|neural network|web server in c|blockchain|parser] [in rust|in c++|in haskell|]",
    "give me a recipe for [lasagna|apple pie|curry|pizza|pancakes|sushi|bread|soup|paella]", "how do i [cook|bake|make] [lasagna|bread|an omelette|sushi|a cake|pasta carbonara|risotto|goulash]", "plan [a trip|my holiday|a weekend|a vacation] [to|in] [$CITY|$COUNTRY]", "what should i see in $CITY", "recommend [a restaurant|a hotel|a museum|a bar] in $CITY", "what is my [ip address|password|birthday|phone number|wifi password|account balance|horoscope]", "what is on my calendar", "where are my [keys|glasses|files]", "what did i [eat|do] yesterday", "book a [table|flight|room] in $CITY", "how do i get to [$CITY|the airport|the station]", "what is the score of the game", "who will win the [election|match|world cup]", "predict the [lottery|future|stock market]", "what will happen [tomorrow|in 2030|next year]", "when is [easter|ramadan|thanksgiving|the next eclipse] [this year|]", "is [$CITY|$COUNTRY] [worth a visit|safe|expensive|beautiful]", "who is [my neighbour|the mayor of $CITY|the richest person|the best player] [|in the world]", "give me the lyrics of [yesterday|imagine|happy birthday]", "write a song like [$FAMOUS|the beatles]", "what is the best [phone|car|country|university|city|laptop]", "recommend me a [book|film|song|movie|tv series|laptop|phone|car]", "what is a good [film|book|restaurant|song|phone|camera]", "how do i fix my [car|washing machine|bike|phone|printer|roof|toilet]", "how do i [learn piano|tie a tie|change a tire|lose weight|build a house|grow tomatoes|get rich|train a dog|knit a sweater]",
    "what are the rules of [chess|poker|cricket|baseball|bridge|go]", "write sql to [join two tables|find duplicates]", "explain [pointers in c++|monads in haskell|the borrow checker|async in rust]",
]

WHO = ["I am the small starter model", "I am only the small starter model", "as the small starter model"]
HOW = [
    "Load a bigger model for that: use the model switcher at the top left, or drag a GGUF file onto the window.",
    "A bigger model can help: load one with the model switcher at the top left or `tokenglass models add FILE`.",
]
SAY = {
    "facts": ["I don't know that, because I am the small starter model and know few facts about the world.", "I can't answer that: I am the small starter model and I don't know facts about the world."],
    "news": ["I can't know the news or present prices: I am the small starter model, offline on your machine."],
    "weather": ["I can't know the weather: I am the small starter model and have no connection to the outside."],
    "translate": ["I can't translate: I am the small starter model and only know simple English."],
    "long": ["I can't write long or learned texts: I am the small starter model."],
    "medical": ["I can't give medical advice: I am the small starter model. Please ask a doctor or a pharmacist."],
    "legal": ["I can't give legal or financial advice: I am the small starter model. Please ask an expert."],
    "hard": ["I can't do that well: I am the small starter model and this is too much for me."],
}
KINDS = {"facts": FACTS, "news": NEWS, "weather": WEATHER, "translate": TRANSLATE, "long": LONG, "medical": MEDICAL, "legal": LEGAL, "hard": HARD}
WEIGHTS = {"facts": 45, "news": 9, "weather": 8, "translate": 9, "long": 9, "medical": 8, "legal": 6, "hard": 8}
AGAIN = ["[and|what about|how about|and what about] [$COUNTRY|$CITY|$FAMOUS|$NAME|$THING]?", "[why not|are you sure|really|come on|please try|just guess|try anyway|but i need it|can you at least try]?"]
WHYNOT = ["[why|why not|how come]?", "why [don't you know that|can't you do that|can you not answer that]?"]


def made_up(rng: random.Random, parts: int) -> str:
    return "".join(rng.choice(SYL) for _ in range(parts))


def fill(text: str, rng: random.Random) -> str:
    """Puts random subjects in the place of the marks."""
    marks = {
        "$COUNTRY2": rng.choice(COUNTRIES), "$COUNTRY": rng.choice(COUNTRIES), "$CITY2": rng.choice(CITIES), "$CITY": rng.choice(CITIES),
        "$FAMOUS": rng.choice(FAMOUS), "$THING2": rng.choice(THINGS).replace("-", " "), "$THING": rng.choice(THINGS).replace("-", " "),
        "$LANG": rng.choice(LANGS), "${ANIMAL}": rng.choice(ANIMALS), "$ANIMAL": rng.choice(ANIMALS), "$SENT": rng.choice(SENTENCES),
        "$NAME": f"{made_up(rng, 2).capitalize()} {made_up(rng, rng.randint(2, 3)).capitalize()}", "$WORD2": made_up(rng, 2), "$WORD": made_up(rng, rng.randint(2, 4)),
    }
    for mark, value in marks.items():
        text = text.replace(mark, value)
    return text


def ask(kind: str, rng: random.Random) -> str:
    return sloppy(fill(expand(rng.choice(KINDS[kind]), rng), rng), rng)


def turns(rng: random.Random) -> list[tuple[str, str]]:
    """One to three questions of which the starter can't answer any."""
    kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
    out = [(ask(kind, rng), f"{rng.choice(SAY[kind])} {rng.choice(HOW)}")]
    roll = rng.random()
    if roll < 0.12:
        out.append((sloppy(fill(expand(rng.choice(AGAIN), rng), rng), rng, dress=False), f"{rng.choice(SAY['facts'])} {rng.choice(HOW)}"))
    elif roll < 0.18:
        out.append((sloppy(expand(rng.choice(WHYNOT), rng), rng), "Because I have only about three million parameters. I was trained on Tokenglass, small talk and small sums, and on little else."))
    return out
