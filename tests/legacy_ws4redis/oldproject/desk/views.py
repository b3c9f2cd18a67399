from django.contrib.auth.decorators import login_required
from django.contrib.auth.models import Group
from django.http import HttpResponse
from django.utils.decorators import method_decorator
from django.views.decorators.csrf import csrf_exempt
from django.views.generic import TemplateView, View
from ws4redis.publisher import RedisPublisher
from ws4redis.redis_store import SELF, RedisMessage

from desk.models import Headline


class WireView(TemplateView):
    """The page; a POST puts a headline on the wire of everybody."""

    template_name = "desk/wire.html"

    def get_context_data(self, **kwargs):
        return super().get_context_data(groups=Group.objects.order_by("name"), **kwargs)

    @method_decorator(csrf_exempt)
    def dispatch(self, *args, **kwargs):
        return super().dispatch(*args, **kwargs)

    def post(self, request):
        Headline.objects.create(text=request.POST["text"])
        return HttpResponse("on the wire")


@method_decorator([csrf_exempt, login_required], name="dispatch")
class TellView(View):
    """Sends a note to a user, or to a group."""

    facility = "notes"

    def post(self, request):
        if "group" in request.POST:
            publisher = RedisPublisher(facility=self.facility, groups=[request.POST["group"]])
        else:
            publisher = RedisPublisher(facility=self.facility, users=[request.POST.get("user")])
        publisher.publish_message(RedisMessage(request.POST.get("text")), expire=30)
        return HttpResponse("told")


@csrf_exempt
@login_required
def remind(request):
    """Sends a note to the browser that asks for it, in all of its windows, and to all others of its user."""
    publisher = RedisPublisher(facility="notes", sessions=[SELF], request=request)
    publisher.publish_message(RedisMessage("this browser: " + request.POST["text"]), 0)
    publisher = RedisPublisher(facility="notes", users=[SELF], groups=[SELF], request=request)
    publisher.publish_message(RedisMessage("you: " + request.POST["text"]), 0)
    return HttpResponse("reminded")


def latest(request, facility):
    """The last message that is kept for whoever asks, such as the place that a reporter's telephone sent."""
    message = RedisPublisher().fetch_message(request, facility, request.GET.get("audience", "any"))
    return HttpResponse("nothing" if message is None else message, status=404 if message is None else 200)
