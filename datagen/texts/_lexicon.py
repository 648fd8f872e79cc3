"""Word lists for the rule-based texts: closed classes whole, open classes by their common words.

There is no tagger with learned weights here; what a list does not know is judged by its context
and, where that is not enough, gets a sentence that suits any word.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
POINTERS = _words("this that these those")
POSSESSIVES = _words("his her their its my your our whose")
QUANTIFIERS = _words(
    "some any several many few various multiple numerous both all most more other another each "
    "every no"
)
NUMBERS = {
    word: number
    for number, word in enumerate(
        [
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
            *("seventeen", "eighteen", "nineteen", "twenty"),
        ]
    )
}
AUXILIARIES = _words(
    "is are was were be been being am has have had do does did can could will would should may "
    "might must isn't aren't"
)
PRONOUNS = _words(
    "he she it they them him who which what someone something everyone each themselves himself "
    "herself itself there where while when as if because"
)
CONJUNCTIONS = _words("and or but nor than then so not")
PREPOSITIONS = _words(
    "in on at by with without through across over under into onto near behind beside besides "
    "between among around along against above below beneath inside outside from to of off toward "
    "towards during before after past up down out for about atop amongst underneath upon within "
    "beyond next like via"
)
#: Words after a verb that belong to it: "pick up", "turn off".
PARTICLES = _words("up down off out away back")
#: Words that cannot stand in the middle of a noun phrase.
FUNCTION = (
    ARTICLES
    | POINTERS
    | POSSESSIVES
    | QUANTIFIERS
    | AUXILIARIES
    | PRONOUNS
    | CONJUNCTIONS
    | PREPOSITIONS
)

COLOURS = _words(
    "red orange yellow green blue purple pink brown black white grey gray beige tan maroon navy "
    "teal turquoise violet magenta olive khaki cream gold golden silver bronze copper charcoal "
    "lavender peach coral mustard burgundy crimson scarlet indigo mauve fuchsia rust lime cyan "
    "multicoloured multicolored multicolour multicolor multi colourful colorful blonde blond"
)
#: Adjectives that suit "make the dress …".
QUALITIES = _words(
    "big large huge small tiny little giant tall short long wide narrow thick thin deep shallow "
    "high low old young new ancient modern vintage elderly fat skinny slim heavy light dark "
    "bright shiny dull wet dry clean dirty muddy dusty snowy icy sandy rocky grassy sunny cloudy "
    "foggy rainy hot cold warm cool open closed full empty happy sad angry smiling serious quiet "
    "loud busy crowded deserted calm rough smooth soft hard round square curly straight fluffy "
    "furry hairy shaggy bald beautiful pretty ugly cute fancy plain simple colorful bare broken "
    "fresh ripe raw striped checked checkered plaid spotted dotted printed "
    "patterned floral solid "
    "embroidered lit frozen paved steep flat wooden brick metallic transparent sleeveless hooded "
    "casual formal sporty fast slow strong weak rich poor indoor outdoor strange funny "
    "check checks stripe stripes washed graphic"
)
#: Materials and other nouns used as adjectives: "a cotton shirt".
MATERIALS = _words(
    "wood metal plastic glass stone concrete brick leather cotton silk wool denim linen velvet "
    "suede paper steel iron rubber marble straw canvas mesh fur lace satin nylon polyester"
)
PLACES = {
    word: word.capitalize()
    for word in _words(
        "asian african american indian chinese japanese european british english french german "
        "italian spanish mexican russian brazilian korean thai canadian australian "
        "irish hispanic "
        "arab muslim christian hindu jewish buddhist caucasian"
    )
}

AUDIENCES = {
    "men": "men",
    "man": "men",
    "mens": "men",
    "men's": "men",
    "male": "men",
    "women": "women",
    "woman": "women",
    "womens": "women",
    "women's": "women",
    "female": "women",
    "boy": "boys",
    "boys": "boys",
    "boy's": "boys",
    "girl": "girls",
    "girls": "girls",
    "girl's": "girls",
    "kid": "kids",
    "kids": "kids",
    "kid's": "kids",
    "unisex": "everyone",
}
SEASONS = _words("spring summer autumn fall winter")

PEOPLE = _words(
    "man woman boy girl child kid baby toddler infant teenager teen adult person lady guy "
    "gentleman male female player worker rider surfer skier skateboarder snowboarder dancer "
    "singer musician performer artist chef cook waiter officer policeman soldier fireman "
    "firefighter doctor nurse teacher student mother father daughter son brother sister friend "
    "couple crowd group family team band dog cat horse bird puppy kitten cow sheep goat elephant "
    "bear athlete runner cyclist biker swimmer climber hiker fisherman vendor clown bride groom "
    "youth individual pedestrian vehicle car truck bus bicycle bike motorcycle boat"
)
#: Nouns without a plural that stand without an article.
MASS = _words(
    "water snow grass sand ice air mud dirt gravel food rice bread butter cheese milk oil flour "
    "sugar salt pepper garlic pasta meat beef pork chicken fish fruit juice coffee tea beer wine "
    "hay smoke fire rain wood metal plastic glass concrete leather cotton silk wool denim paper "
    "money music luggage furniture equipment clothing footwear jewelry jewellery "
    "eyewear sportswear "
    "kidswear innerwear nightwear swimwear makeup traffic trash garbage sunlight "
    "grassland foliage "
    "baseball football basketball soccer hockey tennis volleyball rugby golf cricket badminton "
    "lacrosse softball chess homework research work construction surf water dust foam soup "
    "spinach lettuce cream chocolate detergent soap foil stock dough turmeric mint basil parsley"
)
#: Nouns that are plural whether or not they look so.
PLURAL = _words(
    "people men women children police feet teeth geese mice trousers jeans shorts pants leggings "
    "tights sunglasses glasses goggles scissors clothes shoes socks sandals boots sneakers flats "
    "heels flip-flops earphones headphones pyjamas pajamas tshirts kurtas kurtis overalls "
    "briefs trunks boxers stockings capris tongs pliers binoculars stairs fireworks"
)
#: Nouns that end like plurals and are singular.
SINGULAR = _words(
    "dress grass glass bus gas boss class mass cross lens canvas compass tennis gymnastics news "
    "cactus octopus lotus campus circus virus christmas atlas bass harness mattress fortress "
    "princess actress waitress wilderness princess hibiscus walrus chess business press pass moss"
)
#: What product titles end in; more are known by being the last word of both titles.
PRODUCTS = _words(
    "shirt t-shirt tshirt tee top kurta kurti tunic dress skirt saree blouse vest "
    "bra brief camisole "
    "nightdress jacket sweater sweatshirt jumper coat blazer suit tie belt scarf "
    "stole dupatta cap "
    "hat beanie glove mitten wallet handbag bag backpack clutch purse trolley watch "
    "bracelet bangle "
    "ring pendant necklace earring perfume deodorant deo lipstick shoe sandal "
    "slipper boot sneaker "
    "heel flat flip-flop sock jersey polo swimsuit bikini shrug waistcoat lounge robe umbrella "
    "romper leotard outfit uniform costume hoodie sari apron helmet gown"
)

#: Adverbs and predicates that do not show it by their form.
ADVERBS = _words(
    "together alone outdoors indoors downhill uphill downstairs upstairs nearby away forward "
    "forwards backward backwards sideways ahead here there today now again very too also just "
    "still fast hard well overhead underwater asleep awake airborne barefoot shirtless topless "
    "upright apart abroad downtown everywhere around naked alike"
)
#: Prepositions that say where.
WHERE = _words(
    "in on at near behind beside under over through across into onto along inside outside around "
    "against above below beneath by toward towards underneath"
)
#: Nouns that say where a thing is rather than what it is.
SIDES = _words(
    "left right top bottom centre center middle corner side front back foreground background "
    "distance air edge"
)
#: What titles call patterns, and how one says it before a noun.
PATTERNS = {
    **dict.fromkeys(["check", "checks"], "checked"),
    **dict.fromkeys(["stripe", "stripes"], "striped"),
}
#: Units of measures, which are told with their number.
UNITS = _words(
    "kg g mg lb lbs oz ml cl dl l litre litres liter liters km m cm mm mile miles inch inches ft "
    "foot feet yard yards metre metres meter meters degree degrees percent mph kmh kph hour hours "
    "minute minutes second seconds day days week weeks month months year years dollar dollars"
)
#: Nouns that are also adjectives of the lists above.
ALSO_ADJECTIVES = _words("light square")
#: Things that one can hold or eat, and that are also colours.
ALSO_COLOURS = _words("orange olive peach lime mustard cream lavender")
#: Verbs of several syllables whose last one is stressed: "transferring".
STRESSED = _words("transfer refer prefer occur begin admit submit permit commit equip patrol")
#: Words in -ly that are no adverbs.
LY_NOUNS = _words("family belly jelly bully butterfly dragonfly italy early lonely friendly silly")

#: Base forms of common verbs; the other forms are made from them.
VERBS = _words(
    "be have do go get make take put come run walk jump leap sit stand lie lay play hold carry "
    "throw catch kick hit ride drive fly swim surf ski skate skateboard snowboard climb crawl "
    "dance sing talk speak chat laugh smile cry look watch stare gaze see read write draw paint "
    "eat drink cook bake cut chop slice peel stir mix pour wash rinse clean wipe dry open close "
    "shut turn push pull lift raise lower drop pick place set move remove add fill empty wear "
    "dress pose perform practice compete race fight wrestle box hug kiss touch feed pet chase "
    "follow lead cross enter leave exit pass wait rest sleep relax lean kneel squat bend stretch "
    "reach point wave shake clap cheer celebrate gather meet work build fix repair dig plant "
    "sweep shovel sell buy shop serve use wield swing slide roll spin flip dive float paddle row "
    "sail fish hunt shoot aim march parade protest sprint jog bike cycle bicycle pedal hike camp "
    "travel stroll wander frolic frolick splash swat bounce balance perch hang show give hand "
    "blow bite chew lick sniff smell bark fetch dig bathe brush comb shave tie wrap fold unfold "
    "pack unpack screw unscrew scoop scrape squeeze sprinkle crush grate knead "
    "press spread taste "
    "insert switch adjust check grab attempt try prepare help teach learn listen hear think "
    "sew knit weave browse examine inspect study observe view photograph film record play "
    "plays stroke strum juggle spray sprint tackle trot gallop graze wade wakeboard toss bowl "
    "converse embrace converge assemble fall land flip launch approach attack avoid face block "
    "display sell hop skip hide pause howl tug descend ascend enjoy attend cover tighten loosen "
    "waterski ollie break scour submerge draw scramble howl corral strike drag haul "
    "participate return search taste warm heat boil fry "
    "become grow shrink vanish disappear appear emerge rotate glide twirl drift "
    "grill season pluck weigh measure start stop finish continue mow rake saw hammer drill "
    " stomp scale steer smoke sip shout scream yell tumble visit vacuum"
) - {"plays", "box", "bowl", "film", "face"}
IRREGULAR = {
    "ran": "run",
    "sat": "sit",
    "stood": "stand",
    "rode": "ride",
    "threw": "throw",
    "went": "go",
    "took": "take",
    "made": "make",
    "held": "hold",
    "caught": "catch",
    "wore": "wear",
    "flew": "fly",
    "swam": "swim",
    "drove": "drive",
    "ate": "eat",
    "drank": "drink",
    "dug": "dig",
    "fell": "fall",
    "slept": "sleep",
    "spoke": "speak",
    "swung": "swing",
    "lying": "lie",
    "tying": "tie",
    "dying": "die",
}
#: Words in -ing that are nouns, unless an auxiliary stands before them.
ING_NOUNS = _words(
    "building ceiling wedding string evening morning clothing railing king ring "
    "wing thing spring "
    "swing painting something nothing anything everything sting sling icing pudding dressing "
    "stocking legging earring lightning sibling duckling dumpling awning crossing landing "
    "drawing carving clearing meeting opening parking bedding covering filling frosting topping "
    "seasoning housing lighting scaffolding siding sing bring fling cling"
)
#: Nouns that are also verbs; as the second of two words they are taken as nouns.
ALSO_NOUNS = _words(
    "watch dress race match play park walk run fish paint box stand set wave work "
    "boat bike cycle "
    "board ride swing slide rest camp plant show hand bowl brush comb shop row sail smoke view "
    "record press tie wrap pet face film swim jump hit kick dance look drink cook point drop "
    "light fall land block display scale tackle stroke spray sprint squeeze place cross back"
)
