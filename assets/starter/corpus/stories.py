"""Tiny stories about any subject that is asked for."""

# ruff: noqa: E501, SIM905  (a sentence or a pattern stands on one line)

from __future__ import annotations

import random

from corpus.dsl import expand, sloppy

NOUNS = """fox cat dog robot dragon mouse rabbit bear bird owl fish whale turtle hedgehog squirrel wolf lion tiger elephant
monkey penguin frog duck hen horse cow sheep goat pig bee ant spider butterfly snail dolphin shark octopus crab seal camel
giraffe zebra kangaroo koala panda parrot crow eagle swan deer moose badger beaver raccoon hamster kitten puppy unicorn
wizard witch princess prince king queen knight pirate farmer baker sailor fisherman gardener painter teacher doctor nurse
astronaut detective baby boy girl grandmother grandfather child musician clockmaker shepherd ghost giant dwarf elf fairy
monster alien snowman scarecrow teapot lamp clock key book pencil shoe hat umbrella kite balloon boat ship train car bus
bicycle rocket lighthouse castle house bridge windmill garden tree flower apple pumpkin potato carrot cloud star moon sun
river mountain island forest desert stone raindrop snowflake wind computer phone token camera violin drum piano guitar
cookie cake cup spoon chair table mirror candle button sock scarf coin feather leaf seed train truck tractor submarine
planet comet library bakery village city king puppet doll tower door window letter map compass lantern bell chef postman
firefighter inventor librarian pilot programmer scientist student tailor traveller lamb foal chick donkey lizard snake
crocodile dinosaur mermaid goblin troll vampire ninja cowboy astronomer bookworm beetle ladybug firefly grasshopper worm
otter flamingo peacock pigeon sparrow hippo rhino gorilla leopard cheetah llama walrus ostrich meerkat bat mole""".split()
NOUNS += """acorn anchor apron arrow attic backpack bagpipe ballerina bamboo barber barn basket bathtub beach beekeeper bean blackbird
blanket blacksmith bottle boulder bramble bucket butcher cabbage cabin cactus canary canoe captain caravan caterpillar cave chimney
chipmunk cinema circus clown cobbler cocoon comb cook cottage cricket crown cucumber cupboard curtain daisy dandelion dentist diver
dolphin dove dragonfly drummer dumpling earthworm echo envelope fern ferry fiddle fireplace fisher flute fountain gecko gnome goldfish
goose grandma grandpa guard gull hare harbour hawk hero heron hill hunter iceberg icicle jackdaw jar jellyfish juggler jungle kettle
kingfisher kiwi ladder lake lark lemon lobster magician magpie market marmot marsh meadow merchant metronome milkman miller minnow
moth mushroom nightingale oak orchard organ pancake panther parade pebble pelican piano pie pigeon pillow pine plough pond pony poodle
porcupine potter puddle quilt radio rainbow raven reindeer robin rooster rope rose salmon sandcastle saxophone scientist seahorse
shadow shopkeeper skunk sled sleigh sloth soldier sparrow spaceship squid starfish stork stove stream suitcase swallow swing teddy
telescope thief thunderstorm toad toaster torch toucan trumpet tulip typewriter valley vase volcano waiter waitress walnut wasp
watchmaker waterfall weasel weaver wheel whistle willow witch wombat woodcutter woodpecker wren yak yeti zookeeper""".split()
ADJ = """little small old young brave lonely shy clever happy sad lazy tired curious hungry green blue red golden silver
tiny big friendly grumpy sleepy lost magic forgotten kind quiet busy wise white black purple yellow proud funny poor rich
broken rusty paper wooden glass flying talking dancing singing invisible strange careful cheerful""".split()
PEOPLE = """Anna Ben Emma Felix Greta Hugo Lena Max Nina Oscar Rosa Sam Tina Zoe Maria Tom Lucy Leo Mia Ella Omar Yuki
Ali Olga Kate Liam Nora Ravi Mei Pablo Clara Jack Ruby Finn Ivy Otto Luna Milo Pia""".split()
PLACES = ["by the river", "in a quiet village", "at the edge of a forest", "on a small island", "near the sea",
          "in an old town", "on top of a hill", "in a green valley", "at the end of a long road", "behind the mountains"]
FINDS = ["a shiny key", "a small golden bell", "an old map", "a warm light", "a lost letter", "a blue stone", "a tiny door",
         "a silver coin", "a box without a lid", "a red feather"]
FRIENDS = ["a small bird", "an old turtle", "a friendly mouse", "a young owl", "a grey cat", "a slow snail", "a kind neighbour"]

# $I a fox, $D the fox, $p it, $P It, $w was, $x its, $L place, $F find, $G friend (with article), $g the friend
PLOTS = [
    "Once upon a time there $w $I $L. Every night $D dreamed of seeing the stars up close. One day $G showed $o the way to the highest hill. There the stars looked near enough to touch, and $D $w happy.",
    "$I lived $L. One rainy morning $D found $F and wondered whose it could be. $P asked everyone, until $G began to smile, for it was the one who had lost it. From that day on they were friends.",
    "There once $w $I who $w afraid of the dark. One evening the lights went out, and $D had to go home alone. On the way $p met $G, and they walked together. After that night the dark $w only a blanket for $o.",
    "One winter it grew very cold $L, and $D had nothing to eat. $G came by and shared its last piece of bread. In spring $D planted a small garden and gave half of it away. Nobody there was ever hungry again.",
    "$I wanted to win the great race $L. Everyone laughed, because $D $w so slow. But when $G fell into a ditch, $D stopped to help. $P came in last, and yet everybody cheered for $o.",
    "Long ago $I lived $L and $w very lonely. One day $p wrote a letter and let the wind carry it away. A week later $G stood at the door with the letter. $D made tea, and they talked until morning.",
    "$I heard a strange sound at night. It came from under the floor, and $D followed it with a candle. There sat $G, singing because it could not sleep. $D sang along, and soon both slept deeply.",
    "Every day $D looked at the sea and dreamed of a journey. One morning $p built a small boat and set out. After three days $p found an island, and on it lived $G. They shared their stories, and $D came home with a full heart.",
    "$I once found $F $L. Whoever held it could make one wish. $D thought for a long time, and then wished that $G would be well again. The next morning they danced together in the sun.",
    "In a time of great heat the river dried up. Only $D knew of a spring behind the rocks. $P could have kept it secret, but $p told everyone. Since then the spring carries the name of $D.",
]
POEMY = ["", "", "", "Here is one. ", "Sure! "]

ASK = [
    "[tell|tell|write|give|make|read|invent] me a [|short|tiny|little|small|quick|nice|funny|bedtime|very short] [story|tale] about $S",
    "[tell|write|invent|make up|create] a [|short|tiny|little|small|nice|brief|cute|bedtime] [story|tale|fairy tale] [about|with|of] $S",
    "[can|could|would|will] you [please|] [tell|write] [me|us|] a [|short|tiny|little|small] story [about|with] $S [please|]?",
    "a [|short|tiny|little|small] story about $S [please|pls|]",
    "[i want|i would like|i'd like|i'd love|i need] [to hear|to read|] a [|short|tiny|nice|bedtime] story about $S",
    "[story|short story|tiny story|bedtime story] about $S", "[do you know|have you got|got] a story about $S?",
    "write a story in [three|four|a few] sentences about $S", "[now|and now|ok now] [a story|one] about $S",
    "once upon a time there was $S", "[my kid|my daughter|my son] wants a story about $S", "let's have a story about $S",
    "tell us something about $S, as a story", "please write a tale in which $S [appears|is the hero|plays a part]",
]
OPEN = ["tell me a [|short|nice|tiny|little|bedtime|new] story", "[story|a story|one story] please", "write a [|short|small] story", "tell a story",
        "can you tell me a story?", "i want to hear a story", "[do you know|got] any stories?", "make up a story", "read me a story", "story time", "bedtime story please"]
MORE = ["[another|another one|one more|tell me another|tell me another one|tell me one more|more|a different one|again|next one] [please|]", "another story [please|]", "[can you tell|tell] me another story?"]
MOREABOUT = ["[now|and now|another|another one|and|and one|one more|next|same] about $S [please|]", "[now|and] [with|about] $S", "what about $S?", "[and|now] a story about $S"]


def article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"


SYLLABLES = "ka lo mi ra ten vor sal den bri gor un mel fa zi ro pel tas qui nor dra vel om shu ber lin cor ja wen tho ska pri mon".split()


def made_up(rng: random.Random, parts: int) -> str:
    """A word that nobody knows: it must be copied, not known."""
    return "".join(rng.choice(SYLLABLES) for _ in range(parts))


def subject(rng: random.Random) -> dict[str, str]:
    """A subject as asked for ($S) and as the story names it."""
    kind = rng.random()
    noun = rng.choice(NOUNS)
    full = f"{rng.choice(ADJ)} {noun}" if rng.random() < 0.5 else noun
    if kind < 0.12:
        noun = made_up(rng, rng.randint(2, 3))
        full = f"{rng.choice(ADJ)} {noun}" if rng.random() < 0.5 else noun
    if kind < 0.72:
        asked = f"{article(full)} {full}"
        if rng.random() < 0.1:
            asked = rng.choice([f"the {full}", full, f"my {full}", f"{full}s"])
        return {"S": asked, "I": f"{article(full)} {full}", "D": f"the {full}", "p": "it", "o": "it", "w": "was"}
    if kind < 0.86:
        other = rng.choice(NOUNS)
        a = f"{article(full)} {full} and {article(other)} {other}"
        return {"S": a, "I": a, "D": f"the {full} and the {other}", "p": "they", "o": "them", "w": "were"}
    name = rng.choice(PEOPLE)
    if rng.random() < 0.5:
        return {"S": f"{article(full)} {full} [named|called] {name}", "I": f"{article(full)} {full} named {name}", "D": name, "p": "it", "o": "it", "w": "was"}
    place = rng.choice(["on the moon", "in the city", "in the forest", "in space", "under the sea", "in winter", "at school", "on a ship", "on a farm", "at night"])
    return {"S": f"{article(full)} {full} {place}", "I": f"{article(full)} {full} {place}", "D": f"the {full}", "p": "it", "o": "it", "w": "was"}


def tell(s: dict[str, str], rng: random.Random) -> str:
    plot = rng.choice(PLOTS)
    friend = rng.choice(FRIENDS)
    place = rng.choice(PLACES)
    intro = s["I"].rsplit(" ", 2)
    if any(s["I"].endswith(x) for x in ("on the moon", "in the city", "in the forest", "in space", "under the sea", "in winter", "at school", "on a ship", "on a farm", "at night")):
        place = ""
    del intro
    table = {"I": s["I"], "D": s["D"], "p": s["p"], "P": s["p"].capitalize(), "o": s["o"], "w": s["w"],
             "L": place, "F": rng.choice(FINDS), "G": friend}
    for mark, value in table.items():
        plot = plot.replace(f"${mark}", value)
    plot = plot.replace(" .", ".").replace(" ,", ",").replace("  ", " ")
    sentences = plot.split(". ")
    return ". ".join(x[0].upper() + x[1:] for x in sentences)


def turns(rng: random.Random) -> list[tuple[str, str]]:
    """One to three turns of stories."""
    out = []
    s = subject(rng)
    if rng.random() < 0.12:
        out.append((sloppy(expand(rng.choice(OPEN), rng), rng), tell(s, rng)))
    else:
        out.append((sloppy(expand(rng.choice(ASK).replace("$S", s["S"]), rng), rng), tell(s, rng)))
    while rng.random() < 0.22:
        s = subject(rng)
        if rng.random() < 0.4:
            out.append((sloppy(expand(rng.choice(MORE), rng), rng), tell(s, rng)))
        else:
            out.append((sloppy(expand(rng.choice(MOREABOUT).replace("$S", s["S"]), rng), rng), tell(s, rng)))
    return out
